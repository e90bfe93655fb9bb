"""The completion map that travels in the metadata of a committed offset.

Layout: `v1:` and base64 of variable-length integers (LEB128): the number of runs, each as (gap since the end of the
last run, length), counted from the committed offset; then the number of started jobs, each as (gap since the last
one, starts); then a CRC-32 of all this and the committed offset, so that neither damage nor a map that was copied to
another offset can pass unfinished records by. Anything else is unknown and read as an empty map, which repeats work
but loses nothing.

Behind it stands `;` and the id of the topic, where that is known: committed offsets survive the deletion of a topic
(tried with Kafka 4.3.1), and say nothing about another one of the same name.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_PREFIX = "v1:"
_TOPIC = ";"
# 16 bytes in base64, as Kafka's tools write them.
_TOPIC_ID = re.compile(r"[A-Za-z0-9+/_-]{22}")
_CRC_BYTES = 4
_OFFSET_BITS = 63

# The broker's default `offset.metadata.max.bytes`.
MAX_BYTES = 4096
PAUSE_BYTES = MAX_BYTES * 3 // 4

Run = tuple[int, int]


@dataclass(frozen=True, slots=True)
class CompletionMap:
    """`finished` are half-open runs of offsets above the committed one; `starts` counts those of unfinished jobs."""

    finished: tuple[Run, ...] = ()
    starts: Mapping[int, int] = field(default_factory=dict)
    topic_id: str | None = None

    def __contains__(self, offset: int) -> bool:
        return any(first <= offset < end for first, end in self.finished)

    def past(self, offset: int) -> int:
        """The first offset from this one on that is not known to be finished."""
        for first, end in self.finished:
            # Runs that touch are valid: earlier versions wrote some.
            if first <= offset < end:
                offset = end
        return offset

    def below(self, end: int) -> CompletionMap:
        """What is known of the offsets below `end`."""
        runs = tuple((first, min(stop, end)) for first, stop in self.finished if first < end)
        starts = {offset: count for offset, count in self.starts.items() if offset < end}
        return CompletionMap(runs, starts, self.topic_id)

    def knows_from(self, offset: int) -> bool:
        """Whether anything is known of this offset or a higher one."""
        return any(end > offset for _, end in self.finished) or any(started >= offset for started in self.starts)

    def count(self, first: int, end: int) -> int:
        """How many of these offsets are known to be finished."""
        return sum(max(0, min(stop, end) - max(start, first)) for start, stop in self.finished)


def encode(base: int, finished: Sequence[Run], starts: Mapping[int, int], topic_id: str | None = None) -> str:
    """The metadata of a commit at `base`; empty where there is nothing to say.

    Args:
        finished: half-open runs of offsets at or above `base`, ascending and apart.
        starts: starts by offset, all at or above `base`.
        topic_id: of the topic, where it is known.
    """
    tail = _TOPIC + topic_id if topic_id is not None and _TOPIC_ID.fullmatch(topic_id) else ""
    if not finished and not starts:
        return _PREFIX + tail if tail else ""
    numbers = [len(finished)]
    last = base
    for first, end in finished:
        numbers += [first - last, end - first]
        last = end
    numbers.append(len(starts))
    last = base
    for offset in sorted(starts):
        numbers += [offset - last, starts[offset]]
        last = offset
    data = b"".join(map(_varint, numbers))
    return _PREFIX + base64.b64encode(data + _crc(base, data)).decode("ascii") + tail


def decode(base: int, metadata: str | None) -> CompletionMap:
    """Read what `encode` wrote; anything else gives an empty map."""
    if not metadata or not metadata.startswith(_PREFIX):
        return CompletionMap()
    text, _, tail = metadata.partition(_TOPIC)
    topic_id = tail if _TOPIC_ID.fullmatch(tail) else None
    if text == _PREFIX and topic_id is not None:
        return CompletionMap(topic_id=topic_id)
    try:
        data = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        numbers = _varints(data[:-_CRC_BYTES])
        runs, last = [], base
        for _ in range(next(numbers)):
            first = last + next(numbers)
            last = first + next(numbers)
            runs.append((first, last))
        starts, last = {}, base
        for _ in range(next(numbers)):
            last += next(numbers)
            starts[last] = next(numbers)
    except (binascii.Error, ValueError, StopIteration):
        return CompletionMap()
    # What is not exactly what `encode` writes is damaged or not ours: another checksum, empty runs, numbers left over.
    if any(first >= end for first, end in runs) or encode(base, runs, starts, topic_id) != metadata:
        return CompletionMap()
    return CompletionMap(tuple(runs), starts, topic_id)


def joined(runs: Iterable[Run]) -> list[Run]:
    """The same runs, ascending, with those that touch as one."""
    found: list[Run] = []
    for first, end in runs:
        if found and found[-1][1] == first:
            found[-1] = found[-1][0], end
        else:
            found.append((first, end))
    return found


def runs_of(offsets: Iterable[tuple[int, bool]]) -> list[Run]:
    """Runs of finished offsets in an ascending walk over delivered ones, as (offset, finished).

    Offsets that were never delivered, such as transaction markers, do not break a run.
    """
    runs: list[Run] = []
    open_run: list[int] | None = None
    for offset, finished in offsets:
        if not finished:
            open_run = None
        elif open_run is None:
            open_run = [offset, offset + 1]
            runs.append((offset, offset + 1))
        else:
            open_run[1] = offset + 1
            runs[-1] = (open_run[0], open_run[1])
    return runs


def _crc(base: int, data: bytes) -> bytes:
    return zlib.crc32(data, zlib.crc32(b"%d" % base)).to_bytes(_CRC_BYTES, "big")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varints(data: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0
        elif shift >= _OFFSET_BITS:
            raise ValueError("a number that no offset can have")
