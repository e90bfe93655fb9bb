"""The librdkafka configurations of the worker's consumer and producers."""

from __future__ import annotations

import time
from typing import Any

import structlog
from confluent_kafka import KafkaError

from worker.job import Lane
from worker.settings import Settings
from worker.topics import DEAD_LETTER_MAX_BYTES

# Prefetched records are thrown away by every pause (librdkafka#2052), so few are kept.
_PREFETCHED_MESSAGES = 32
_FETCH_BACKOFF_MS = 50
# librdkafka's default, as the waits of the poll thread are counted in it (`intake.patience`).
_MAX_POLL_INTERVAL_MS = 300_000
# Of all clients of a process these have to differ between the members of a group.
_OF_ONE_MEMBER = ("client.id", "group.instance.id")

_log = structlog.get_logger()

# A broker that is down is reported twenty times a second by each client.
_REPEAT_AFTER_S = 10.0


class ErrorLog:
    """librdkafka's errors as log lines, each kind at most every ten seconds with the number of those left out."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def __call__(self, error: KafkaError) -> None:
        now, code = time.monotonic(), error.name()
        if now - self._last.get(code, -_REPEAT_AFTER_S) < _REPEAT_AFTER_S:
            self._left_out[code] = self._left_out.get(code, 0) + 1
            return
        self._last[code] = now
        _log.warning("kafka_error", error=error.str(), code=code, left_out=self._left_out.pop(code, 0))


def sign_in(settings: Settings) -> dict[str, Any]:
    """What a client needs besides `Settings.kafka_client_config`, which goes first, to sign in to Amazon MSK.

    Raises:
        SettingsError: IAM is wanted, and AWS's signer is not installed.
    """
    if settings.msk_iam_region is None:
        return {}
    from worker.msk_iam import client_properties  # imports botocore

    return client_properties(settings)


def _common(settings: Settings) -> dict[str, Any]:
    # What librdkafka prints itself is what `error_cb` tells, but for crashes.
    return {
        "error_cb": ErrorLog(),
        "log_level": 2,
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 2_000,
        **sign_in(settings),
        **settings.kafka_client_config(),
    }


def _member_config(settings: Settings) -> dict[str, Any]:
    """A member of a group that commits by hand, with all of the common properties."""
    return {
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # The end of a partition may lie above its last record: transaction markers, records that have expired.
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "queued.min.messages": _PREFETCHED_MESSAGES,
        "fetch.queue.backoff.ms": _FETCH_BACKOFF_MS,
        "max.poll.interval.ms": _MAX_POLL_INTERVAL_MS,
        "group.protocol": settings.kafka_group_protocol,
        **_common(settings),
    }


def consumer_config(settings: Settings, lane: Lane) -> dict[str, Any]:
    """The group member of a lane, which commits by hand.

    The assignors are those that move nothing between others when a member comes or goes. Each member has one topic; of
    several, both may give one member every partition of one topic and none of another (tried; librdkafka#4044).
    """
    assignor = (
        {"group.remote.assignor": "uniform"}
        if settings.kafka_group_protocol == "consumer"
        else {"partition.assignment.strategy": "cooperative-sticky"}
    )
    common = _member_config(settings)
    return {
        "group.id": settings.kafka_group_id,
        # Where to go on from an offset that is not there is found out and decided in `intake.resets`.
        "auto.offset.reset": "error",
        **assignor,
        **common,
        **{name: f"{common[name]}-{lane.label}" for name in _OF_ONE_MEMBER if name in common},
    }


def max_poll_interval_s(settings: Settings) -> float:
    """After so long without a poll, the group throws a member out."""
    return int(_common(settings).get("max.poll.interval.ms", _MAX_POLL_INTERVAL_MS)) / 1000


def webhooks_config(settings: Settings) -> dict[str, Any]:
    """The group member of `sdxl-worker webhooks`, which commits by hand what has been delivered.

    A partition without a committed offset is read from its beginning, so that nothing is missed.
    """
    member = _member_config(settings) | {
        "group.id": settings.webhook_group_id,
        "auto.offset.reset": "earliest",
        "allow.auto.create.topics": False,
    }
    return {name: value for name, value in member.items() if name not in ("transactional.id", "group.instance.id")}


def reader_config(settings: Settings) -> dict[str, Any]:
    """A consumer that is assigned partitions by hand; its group has no members and no offsets."""
    return {
        "group.id": f"{settings.kafka_group_id}-reader-{settings.worker_id}",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        **_common(settings),
    }


def offsets_reader_config(settings: Settings) -> dict[str, Any]:
    """A client that asks for the group's committed offsets and never joins it; open transactions are waited for."""
    return {
        "group.id": settings.kafka_group_id,
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        **_common(settings),
    }


def admin_config(settings: Settings) -> dict[str, Any]:
    """A client that asks about the cluster; who makes it adds an `error_cb`. It shares no transactional id."""
    return {name: value for name, value in _common(settings).items() if name not in ("error_cb", "transactional.id")}


def bounds_config(settings: Settings) -> dict[str, Any]:
    """A client that asks where partitions begin and end. What it knows of leaders is soon forgotten: it does not learn
    by itself that one has moved, and would be refused for its old epoch for ever (tried, librdkafka 2.16)."""
    return admin_config(settings) | {"metadata.max.age.ms": 2_000}


def producer_config(settings: Settings, extra: dict[str, Any]) -> dict[str, Any]:
    """A producer whose limits let a record of the largest size pass to the dead-letter topic with its headers."""
    return {"message.max.bytes": DEAD_LETTER_MAX_BYTES, **extra, **_common(settings)}


def transactional_id(settings: Settings) -> str:
    """Stable for a restarted process, so that it ends its predecessor's open transaction at once."""
    return f"{settings.kafka_group_id}-{settings.kafka_topic_prefix}{settings.worker_id}"
