"""`python -m devtools.bench.fleet.copier SERVERS PREFIX BATCH`: the least that an exactly-once hop can do.

Copies the request topics to the work topics with confluent-kafka alone: one consumer, one transaction for each `BATCH`
records and their offsets. It decodes nothing, chooses nothing and keeps no books. What a dispatcher is compared with.
"""

from __future__ import annotations

import sys

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from worker.delivery.exactly_once import TRANSACTION_CONFIG
from worker.topics import Topics

TIMEOUT_S = 30.0


def main(servers: str, prefix: str, batch: int) -> None:
    """Copy until the process is killed."""
    common = {"bootstrap.servers": servers, "log_level": 2}
    consumer = Consumer(
        common
        | {
            "group.id": f"{prefix}copier",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    producer = Producer(common | TRANSACTION_CONFIG | {"transactional.id": f"{prefix}copier"})
    producer.init_transactions(TIMEOUT_S)
    where_to = dict(zip(Topics(prefix).requests, Topics(prefix, "work").requests, strict=True))
    consumer.subscribe(list(where_to))
    while True:
        messages = [message for message in consumer.consume(batch, 0.05) if message.error() is None]
        if messages:
            _copy(messages, where_to, consumer, producer)


def _copy(messages: list[Message], where_to: dict[str, str], consumer: Consumer, producer: Producer) -> None:
    producer.begin_transaction()
    offsets: dict[tuple[str, int], int] = {}
    for message in messages:
        topic, partition, offset = str(message.topic()), message.partition() or 0, message.offset() or 0
        producer.produce(
            where_to[topic],
            key=message.key(),
            value=message.value(),
            headers=message.headers(),
            partition=partition,
            timestamp=message.timestamp()[1],
        )
        offsets[topic, partition] = offset + 1
    producer.send_offsets_to_transaction(
        [TopicPartition(*place, offset) for place, offset in offsets.items()],
        consumer.consumer_group_metadata(),
        TIMEOUT_S,
    )
    producer.commit_transaction(TIMEOUT_S)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
