"""`python -m devtools.bench.peers.plain_worker`: confluent-kafka and boto3, a request at a time."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaException, Producer

from devtools.bench.peers.pictures import Studio
from devtools.bench.peers.requests import Request, from_environment, topics

POLL_S = 1.0


def main() -> None:
    """Serve until the process is killed."""
    servers, prefix = from_environment()
    requests, completed = topics(prefix)
    studio = Studio()
    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True})
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"{prefix}worker",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe(requests)
    while True:
        message = consumer.poll(POLL_S)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        began = time.time()
        request = Request.model_validate_json(message.value() or b"")
        done = studio.store(request, studio.draw(request), began)
        producer.produce(completed, key=request.job_id, value=done.model_dump_json())
        producer.flush()
        consumer.commit(message=message, asynchronous=False)


if __name__ == "__main__":
    main()
