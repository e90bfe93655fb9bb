"""Counts of records by job, and by topic and partition."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

MAX_COUNT = 255


@dataclass(slots=True)
class Tally:
    """Records per job, one byte each, and those that ended as they must not.

    `workers`: who ended how many. `places`: the records by topic and partition.
    """

    counts: bytearray
    total: int = 0
    wrong: list[str] = field(default_factory=list)
    workers: dict[str, int] = field(default_factory=dict)
    places: Counter[tuple[str, int]] = field(default_factory=Counter)

    def add(self, number: int, place: tuple[str, int]) -> None:
        self.counts[number] = min(MAX_COUNT, self.counts[number] + 1)
        self.total += 1
        self.places[place] += 1


def text_of(value: str | bytes | None) -> str:
    """A key or a header as text; empty for none."""
    return value.decode() if isinstance(value, bytes) else value or ""
