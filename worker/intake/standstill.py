"""Partitions that bring nothing although they hold more: librdkafka may leave one paused (librdkafka#5591). Pure.

The client tells of no such thing, so it shows only by its silence. A partition that was never fetched since it was
assigned has no known end; one that is fetched has, even if it is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FIRST_PAUSE_S = 30.0
# Behind an upstream's open transaction or its last marker there is nothing to read, so a vain try is repeated rarely.
LONGEST_PAUSE_S = 3_600.0

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a partition was read: `position` is the next offset, `end` the partition's, None where not known."""

    position: int | None
    end: int | None

    @property
    def is_behind(self) -> bool:
        return self.end is None or self.end > (self.position or 0)


@dataclass(slots=True)
class _Wait:
    position: int | None
    due: float
    pause_s: float


class Standstill:
    """Finds the partitions to open again. Times are seconds of any clock."""

    def __init__(self) -> None:
        self._waits: dict[Key, _Wait] = {}

    def find(self, partitions: Mapping[Key, Progress], now: float) -> list[Key]:
        """The partitions that have stood still for too long.

        Args:
            partitions: those that are assigned and that we have not paused.
        """
        self._waits = {key: wait for key, wait in self._waits.items() if key in partitions}
        found = []
        for key, progress in partitions.items():
            wait = self._waits.get(key)
            if not progress.is_behind:
                self._waits.pop(key, None)
            elif wait is None or wait.position != progress.position:
                self._waits[key] = _Wait(progress.position, now + FIRST_PAUSE_S, FIRST_PAUSE_S)
            elif wait.due <= now:
                wait.pause_s = min(LONGEST_PAUSE_S, 2 * wait.pause_s)
                wait.due = now + wait.pause_s
                found.append(key)
        return found
