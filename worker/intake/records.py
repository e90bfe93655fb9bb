"""A record's parts as plain values, read once from confluent-kafka's message; nothing in a record makes this fail."""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from confluent_kafka import Message

from worker.events.single_object import Headers
from worker.intake.times import plausible

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it came.

    Args:
        headers: None where there are none, or where they cannot be read.
        written_at: its timestamp in epoch seconds; None where it has none, or one that cannot be true.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    written_at: float | None


def read_record(message: Message, now: float) -> Record:
    """Take a message apart; `now` is in epoch seconds."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return Record(
        topic,
        partition,
        offset,
        _bytes(message.key()),
        _bytes(message.value()),
        read_headers(message),
        written_at(message, now),
    )


def read_headers(message: Message) -> Headers:
    """The headers; None where a name among them is not UTF-8.

    confluent-kafka raises SystemError then, and crashes the process when it is asked a second time (tried, 2.16.1), so
    a message must be asked only once.
    """
    try:
        headers = message.headers()
    except SystemError as error:
        _log.warning(
            "headers_unreadable",
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            cause=type(error.__cause__).__name__,
        )
        return None
    return list(headers.items()) if isinstance(headers, dict) else headers


def written_at(message: Message, now: float) -> float | None:
    """When the record was written, in epoch seconds; None where that is not known."""
    kind, millis = message.timestamp()
    return plausible(millis / 1000, now) if kind else None


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
