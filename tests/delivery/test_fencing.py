"""Two workers of one WORKER_ID on real Kafka: they fence each other off, and that ends with the reason."""

from __future__ import annotations

import itertools
import uuid
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from devtools.local.kafka import KafkaCluster
from worker.delivery.exactly_once import TRANSACTION_CONFIG, ExactlyOnce
from worker.delivery.producer import TransactionalProducer
from worker.delivery.transport import Encoded, TryAgain
from worker.startup import FenceWatch, WorkerIdTaken


def test_two_workers_of_one_name_end_with_the_reason(kafka: KafkaCluster) -> None:
    topic = f"fencing-{uuid.uuid4().hex[:8]}"
    servers: dict[str, Any] = {"bootstrap.servers": kafka.bootstrap_servers}
    admin = AdminClient(servers)
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    config = TRANSACTION_CONFIG | servers | {"transactional.id": topic, "log_level": 0}
    clock = itertools.count()

    def worker() -> ExactlyOnce:
        watch = FenceWatch("one")
        group = cast("Any", SimpleNamespace(membership={}))
        return ExactlyOnce(
            lambda: TransactionalProducer(config), group, lambda error: watch.note(error, float(next(clock)))
        )

    with pytest.raises(WorkerIdTaken, match="WORKER_ID one"):
        quarrel(worker(), worker(), Encoded(topic, b"k", b"v", []))


def quarrel(one: ExactlyOnce, other: ExactlyOnce, record: Encoded) -> None:
    """Each sends in turn, and once more with a new producer when the other has fenced it off."""
    for _ in range(20):
        for transport in (one, other):
            try:
                send(transport, record)
            except TryAgain:
                send(transport, record)


def send(transport: ExactlyOnce, record: Encoded) -> None:
    transport.prepare()
    transport.send([record], [])
