"""The loss of a log's end: what was acknowledged last is gone on every replica, as after a power cut of the cluster."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from devtools.local.kafka import KafkaCluster
from worker.client.reach import KNOWS_LEADERS, in_slices

Place = tuple[str, int]

_WITHIN_S = 60.0


def end_of(kafka: KafkaCluster, place: Place) -> int:
    """The end of a partition."""
    about = {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "chaos-ends", "log_level": 0}
    consumer = Consumer(about | KNOWS_LEADERS)
    try:
        return end_by(consumer, TopicPartition(*place))
    finally:
        consumer.close()


def end_by(consumer: Consumer, place: TopicPartition) -> int:
    """The end of a partition, whose leader may be on the move: the chaos run bounces brokers."""
    found = in_slices(
        lambda slice_s: consumer.get_watermark_offsets(place, timeout=slice_s), lambda waited_s: waited_s > _WITHIN_S
    )
    assert found is not None
    return found[1]


def lose_end(kafka: KafkaCluster, place: Place, written_s: float) -> None:
    """Lose what is written to a partition within the next `written_s` seconds; returns when the brokers are back."""
    logs = [log for broker in kafka.broker_ids for log in _logs(kafka, broker, place)]
    copies = [_copy_of(log) for log in logs]
    time.sleep(written_s)
    for broker in kafka.broker_ids:
        kafka.kill(broker)
    for log, copy in zip(logs, copies, strict=True):
        shutil.rmtree(log)
        shutil.move(copy, log)
    # At once: one alone has no quorum and does not answer.
    with ThreadPoolExecutor(len(kafka.broker_ids)) as pool:
        list(pool.map(kafka.start_broker, kafka.broker_ids))


def _logs(kafka: KafkaCluster, broker: int, place: Place) -> list[Path]:
    return list((kafka.directory / f"broker-{broker}" / "data").glob(f"{place[0]}-{place[1]}"))


def _copy_of(log: Path) -> Path:
    copy = log.parent.parent / f"shorter-{log.name}"
    shutil.rmtree(copy, ignore_errors=True)
    return shutil.copytree(log, copy)
