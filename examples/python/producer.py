"""python producer.py PROMPT: sends one request and prints its job_id."""

import io
import json
import os
import sys
import uuid
from pathlib import Path

import fastavro
from confluent_kafka import Producer

SCHEMAS = Path(os.environ.get("SCHEMAS", Path(__file__).resolve().parents[2] / "schemas"))
SCHEMA = fastavro.parse_schema(json.loads((SCHEMAS / "generation_request.avsc").read_text()))
# C3 01 and the schema's fingerprint, from docs/contract.md.
HEADER = bytes.fromhex("c301aa1094f859032def")
TOPIC = os.environ.get("KAFKA_TOPIC_PREFIX", "") + "generation.requests.normal"

request = {
    "job_id": os.environ.get("JOB_ID") or f"order-{uuid.uuid4()}",
    "girl_id": "luna",
    "user_id": 1,
    "prompt": sys.argv[1],
    "width": 512,
    "height": 512,
}
value = io.BytesIO()
fastavro.schemaless_writer(value, SCHEMA, request)  # adds the defaults of the other fields

servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True})
failures = []
producer.produce(
    TOPIC, value=HEADER + value.getvalue(), key=request["job_id"], on_delivery=lambda error, _: failures.append(error)
)
producer.flush()
if failures != [None]:
    sys.exit(f"not sent: {failures[0]}")
print(request["job_id"])
