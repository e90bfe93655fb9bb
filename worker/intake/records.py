"""A record's parts as plain values, read once from confluent-kafka's message; nothing in a record makes this fail."""

from __future__ import annotations

from dataclasses import dataclass

from confluent_kafka import Message

from worker.events.record_headers import read_headers
from worker.events.single_object import Headers
from worker.intake.times import plausible


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it came.

    Args:
        headers: None where there are none, or where they cannot be read.
        written_at: its timestamp in epoch seconds; None where it has none, or one that cannot be true.
        leader_epoch: of the leader that wrote it to the log; None where the broker does not tell.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    written_at: float | None
    leader_epoch: int | None = None


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
        _known_epoch(message.leader_epoch()),
    )


def written_at(message: Message, now: float) -> float | None:
    """When the record was written, in epoch seconds; None where that is not known."""
    kind, millis = message.timestamp()
    return plausible(millis / 1000, now) if kind else None


def _known_epoch(epoch: int | None) -> int | None:
    return None if epoch is None or epoch < 0 else epoch


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
