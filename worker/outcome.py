"""What is published of a record: the messages that end it, and notices before that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.job import Origin

if TYPE_CHECKING:
    from worker.events.types import Event


@dataclass(frozen=True, slots=True)
class Original:
    """The original content of a record, for the dead-letter topic; `written_at` is in epoch seconds, where known."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, str | bytes | None]] | None
    written_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One record to produce; `value` is an event to encode, or bytes that are produced unchanged.

    Args:
        partition: the key decides, where it is None.
        written_at: its timestamp in epoch seconds; that of the moment, where it is None.
    """

    topic: str
    key: bytes | None
    value: Event | bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int | None = None
    written_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The messages that end the record at `origin`; with exactly-once delivery, its offset is in their transaction.

    Args:
        messages: the result first; the others (status) may be left out where they cannot be written.
        smallest: replaces all of them where the brokers find the result too large.
    """

    origin: Origin
    messages: tuple[Message, ...]
    urgent: bool = False
    smallest: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A progress message; it is sent only while the partition of `origin` is assigned and the record unfinished."""

    origin: Origin
    message: Message
