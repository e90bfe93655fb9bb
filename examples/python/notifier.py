"""python notifier.py: prints one line for each picture and each failure, until it is stopped."""

import io
import json
import os
from pathlib import Path

import fastavro
from confluent_kafka import Consumer

SCHEMAS = Path(os.environ.get("SCHEMAS", Path(__file__).resolve().parents[2] / "schemas"))
# What a value begins with, from docs/contract.md, and the schema that follows.
NAMES = {"c3017dee58ab49c4c4a3": "generation_completed", "c3010eb404de157ae617": "generation_failed"}
READERS = {
    bytes.fromhex(header): fastavro.parse_schema(json.loads((SCHEMAS / f"{name}.avsc").read_text()))
    for header, name in NAMES.items()
}
PREFIX = os.environ.get("KAFKA_TOPIC_PREFIX", "")

consumer = Consumer(
    {
        "bootstrap.servers": os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
        "group.id": "notifier-python",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
    }
)
consumer.subscribe([f"{PREFIX}generation.completed", f"{PREFIX}generation.failed"])
seen: set[bytes] = set()  # yours: a table that is written together with what the event causes

while True:
    record = consumer.poll(1.0)
    if record is None or record.error():
        continue
    ce_id = dict(record.headers() or [])["ce_id"]
    if ce_id not in seen:
        seen.add(ce_id)
        value = record.value()
        event = fastavro.schemaless_reader(io.BytesIO(value[10:]), READERS[value[:10]], None)
        if "image_url" in event:
            print("completed", event["job_id"], event["image_url"], flush=True)
        else:
            print("failed", event["job_id"], event["error_code"], event["error_message"], flush=True)
    consumer.commit(record, asynchronous=False)
