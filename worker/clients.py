"""The librdkafka configurations of the worker's consumer and producers."""

from __future__ import annotations

from typing import Any

from worker.settings import Settings
from worker.topics import DEAD_LETTER_MAX_BYTES

# Prefetched records are thrown away by every pause (librdkafka#2052), so few are kept.
_PREFETCHED_MESSAGES = 32
_FETCH_BACKOFF_MS = 50


def consumer_config(settings: Settings) -> dict[str, Any]:
    """A group member that commits by hand. Range keeps the three topics co-partitioned (facts, Kafka 1)."""
    protocol: dict[str, Any] = (
        {"group.protocol": "consumer", "group.remote.assignor": "range"}
        if settings.kafka_group_protocol == "consumer"
        else {"group.protocol": "classic", "partition.assignment.strategy": "range"}
    )
    return {
        "group.id": settings.kafka_group_id,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "queued.min.messages": _PREFETCHED_MESSAGES,
        "fetch.queue.backoff.ms": _FETCH_BACKOFF_MS,
        **protocol,
        **settings.kafka_client_config(),
    }


def reader_config(settings: Settings) -> dict[str, Any]:
    """A consumer that is assigned partitions by hand; its group has no members and no offsets."""
    return {
        "group.id": f"{settings.kafka_group_id}-reader-{settings.worker_id}",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        **settings.kafka_client_config(),
    }


def producer_config(settings: Settings, extra: dict[str, Any]) -> dict[str, Any]:
    """A producer whose limits let a record of the largest size pass to the dead-letter topic with its headers."""
    return {"message.max.bytes": DEAD_LETTER_MAX_BYTES, **extra, **settings.kafka_client_config()}


def transactional_id(settings: Settings) -> str:
    """Stable for a restarted process, so that it ends its predecessor's open transaction at once."""
    return f"{settings.kafka_group_id}-{settings.kafka_topic_prefix}{settings.worker_id}"
