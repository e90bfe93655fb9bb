"""Read the dead-letter topic: the letters, which of them were sent again, and what was left out of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from worker.client.connection import Connection, Record
from worker.client.errors import CommandError
from worker.client.reader import Reader
from worker.events.dead_letters import (
    RESUBMITTED_TO,
    DeadLetter,
    original_headers,
    read_dead_letter,
    resubmission_of,
)
from worker.events.headers import header_text
from worker.events.partial import Reading, read_partly
from worker.events.single_object import Headers

# Numbers and addresses differ from letter to letter where the reason is the same.
_PARTICULAR = re.compile(r"\b(?:\d{3,}|(?=[0-9a-f]*\d)[0-9a-f]{8,})\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which letters are wanted; everything that is given narrows the choice. Times are milliseconds since the epoch.

    Args:
        reason: a part of the reason, in any case.
        topic: the topic that the record was on.
        key: the record's key, which is the job id where the sender kept the rules.
    """

    reason: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    topic: str | None = None
    key: str | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Whether the letter is wanted; one without a time only where no time is asked for."""
        if self.reason is not None and self.reason.casefold() not in letter.error.casefold():
            return False
        if self.topic is not None and letter.topic != self.topic:
            return False
        if self.key is not None and letter.key != self.key.encode():
            return False
        time = letter.timestamp_ms
        if time is None:
            return self.since_ms is None and self.until_ms is None
        return (self.since_ms is None or time >= self.since_ms) and (self.until_ms is None or time < self.until_ms)


@dataclass(frozen=True, slots=True)
class Content:
    """The original record of a letter."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def resubmitted(connection: Connection) -> dict[str, str]:
    """The letters that were sent again, by identity, and to where."""
    with Reader(connection, [connection.topics.dead_letter]) as reader:
        found = ((resubmission_of(record.headers), record) for record in reader.read_all())
        return {
            identity: header_text(record.headers, RESUBMITTED_TO) or "?"
            for identity, record in found
            if identity is not None
        }


def letters(connection: Connection, wanted: Filter) -> Iterator[DeadLetter]:
    """The letters that are wanted, as they are read: in the order of each partition."""
    with Reader(connection, [connection.topics.dead_letter]) as reader:
        for record in reader.read_all():
            letter = _letter(record)
            if letter is not None and wanted.takes(letter):
                yield letter


def letter_at(connection: Connection, partition: int, offset: int) -> DeadLetter:
    """The letter at one place.

    Raises:
        CommandError: there is none.
    """
    with Reader(connection, [connection.topics.dead_letter]) as reader:
        reader.only(partition, offset)
        record = next(reader.to_end(), None)
    letter = None if record is None or record.offset != offset else _letter(record)
    if letter is None:
        raise CommandError(f"no dead letter {partition}/{offset} on {connection.topics.dead_letter}")
    return letter


def original(connection: Connection, letter: DeadLetter) -> Content:
    """The original record of a letter; where it was left out because of its size, from the topic that it was on.

    Raises:
        CommandError: that topic does not hold it any more.
    """
    if letter.left_out is None:
        return Content(letter.key, letter.value, original_headers(letter.headers))
    assert letter.origin is not None, "a letter without its bytes is one of ours"
    topic, partition, offset = letter.origin
    with Reader(connection, [topic]) as reader:
        reader.only(partition, offset)
        record = next(reader.to_end(), None)
    if record is None or record.offset != offset or len(record.value or b"") != letter.left_out:
        raise CommandError(f"its {letter.left_out} bytes were left out, and {topic} {partition}/{offset} has expired")
    headers = tuple((name, v.encode() if isinstance(v, str) else v) for name, v in record.headers or ())
    return Content(record.key, record.value, headers)


def read_content(connection: Connection, letter: DeadLetter, content: Content) -> Reading:
    """What the original says, as far as it can be read."""
    headers: Headers = content.headers
    return read_partly(connection.codec, content.value, topic=letter.topic, headers=headers)


def kind_of(reason: str) -> str:
    """A reason without what is particular to one record, so that equal ones can be counted."""
    return _PARTICULAR.sub("…", reason) or "unknown"


def parse_place(text: str) -> tuple[int, int]:
    """Parse `partition/offset`, as `list` prints it.

    Raises:
        ValueError: the text does not have that form.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,18})", text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not PARTITION/OFFSET, such as 3/17")
    return int(found[1]), int(found[2])


def state_of(letter: DeadLetter, sent: Mapping[str, str]) -> str | None:
    """Where a letter was sent again to; None where it was not."""
    return sent.get(letter.identity)


def _letter(record: Record) -> DeadLetter | None:
    if resubmission_of(record.headers) is not None:
        return None
    return read_dead_letter(
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        value=record.value,
        headers=record.headers,
        timestamp_ms=record.timestamp_ms,
    )
