"""The headers of a dead letter: where its record came from, what was wrong, and whether it was sent again. Pure.

They stand there twice: as `dlq-*`, in text for people and for us, and under the names and in the forms of Spring
Kafka's DeadLetterPublishingRecoverer, where partition, offset and timestamp are big-endian numbers of 4, 8 and 8 bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from worker.events.headers import header_text
from worker.events.single_object import Headers

# Kafka refuses records beyond its limit, so what stands beside the original bytes stays short.
MAX_ERROR_CHARS = 500
_MAX_ERROR_BYTES = 1_000

PREFIXES = ("dlq-", "kafka_dlt-")
WORKER_ID = "worker-id"
# On a dead letter whose bytes did not fit: how many there were.
VALUE_BYTES = "dlq-value-bytes"
# On a record that has no value and says that a dead letter was sent again: its identity, and to where it went.
RESUBMITTED = "dlq-resubmitted"
RESUBMITTED_TO = "dlq-resubmitted-to"
# On the request that was sent again: the dead letter that it was made from.
RESUBMITTED_FROM = "dlq-resubmitted-from"

Added: TypeAlias = tuple[tuple[str, bytes], ...]
_EXCEPTION = "worker.errors.UndecodableError"


def dead_letter_headers(
    topic: str, partition: int, offset: int, timestamp_ms: int | None, error: str, *, group: str | None
) -> Added:
    """What is added to the original headers of a record that is no request.

    Args:
        timestamp_ms: of the original record, since the epoch; None where it has none.
        group: the consumer group that read it.
    """
    reason = " ".join(error.split())[:MAX_ERROR_CHARS].encode("utf-8", "replace")[:_MAX_ERROR_BYTES]
    reason = reason.decode("utf-8", "ignore").encode()
    text = {"dlq-topic": topic, "dlq-partition": partition, "dlq-offset": offset, "dlq-timestamp": timestamp_ms}
    number = {"partition": (partition, 4), "offset": (offset, 8), "timestamp": (timestamp_ms, 8)}
    spring = {"exception-fqcn": _EXCEPTION, "original-topic": topic, "original-consumer-group": group}
    return (
        *((name, str(value).encode()) for name, value in text.items() if value is not None),
        ("dlq-error", reason),
        *((f"kafka_dlt-{name}", value.encode()) for name, value in spring.items() if value is not None),
        *(
            (f"kafka_dlt-original-{name}", value.to_bytes(size, "big", signed=True))
            for name, (value, size) in number.items()
            if value is not None
        ),
        ("kafka_dlt-exception-message", reason),
    )


def original_headers(headers: Headers) -> tuple[tuple[str, bytes | None], ...]:
    """The headers that a record had before it became a dead letter."""
    kept = [(name, value) for name, value in headers or () if not name.startswith(PREFIXES)]
    if any(name.startswith(PREFIXES) for name, _ in headers or ()):
        kept = [(name, value) for name, value in kept if name != WORKER_ID]
    return tuple((name, value.encode() if isinstance(value, str) else value) for name, value in kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record of the dead-letter topic.

    Args:
        place: where it lies itself, as (partition, offset).
        origin: where the original record lay, as far as the headers tell.
        timestamp_ms: of the letter, that is when it was given up; None where it has none.
        left_out: how many bytes the original had, where they did not fit.
    """

    place: tuple[int, int]
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp_ms: int | None
    origin: tuple[str, int, int] | None
    original_timestamp_ms: int | None
    error: str
    left_out: int | None = None

    @property
    def topic(self) -> str | None:
        """The topic that the original record was on."""
        return None if self.origin is None else self.origin[0]

    @property
    def identity(self) -> str:
        """What is the same for every dead letter of one original record, and differs for another one.

        The digest tells records apart whose topic was created again, so that offsets repeat.
        """
        topic, partition, offset = self.origin or ("?", *self.place)
        content = repr((self.key, self.value, self.original_timestamp_ms)).encode()
        return f"{topic}/{partition}/{offset}#{hashlib.sha256(content).hexdigest()[:16]}"


def read_dead_letter(
    *,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
    timestamp_ms: int | None,
) -> DeadLetter:
    """A record of the dead-letter topic, whoever wrote it: what its headers do not say stays unknown."""
    topic = header_text(headers, "dlq-topic") or header_text(headers, "kafka_dlt-original-topic")
    origin_partition = _number(headers, "dlq-partition", "kafka_dlt-original-partition")
    origin_offset = _number(headers, "dlq-offset", "kafka_dlt-original-offset")
    known = topic is not None and origin_partition is not None and origin_offset is not None
    return DeadLetter(
        place=(partition, offset),
        key=key,
        value=value,
        headers=tuple((n, v.encode() if isinstance(v, str) else v) for n, v in headers or ()),
        timestamp_ms=timestamp_ms,
        origin=(topic, origin_partition, origin_offset) if known else None,  # type: ignore[arg-type]
        original_timestamp_ms=_number(headers, "dlq-timestamp", "kafka_dlt-original-timestamp"),
        error=header_text(headers, "dlq-error") or header_text(headers, "kafka_dlt-exception-message") or "",
        left_out=_number(headers, VALUE_BYTES),
    )


def resubmission_of(headers: Headers) -> str | None:
    """The identity of the dead letter that a record of the dead-letter topic says was sent again; None for a letter."""
    return header_text(headers, RESUBMITTED)


def resubmission_headers(letter: DeadLetter, sent_to: str) -> Added:
    """The headers of the record that says that a dead letter was sent again; it has the letter's key and no value."""
    return ((RESUBMITTED, letter.identity.encode()), (RESUBMITTED_TO, sent_to.encode()))


def _number(headers: Headers, text_name: str, binary_name: str | None = None) -> int | None:
    text = header_text(headers, text_name)
    if text is not None and text.removeprefix("-").isdecimal() and len(text) < 20:
        return int(text)
    value = next((v for name, v in reversed(headers or ()) if name == binary_name), None)
    return int.from_bytes(value, "big", signed=True) if isinstance(value, bytes) and len(value) in (4, 8) else None
