"""What records cost, from the first to the last of so many."""

from __future__ import annotations

import time
from dataclasses import dataclass

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds per record: of the process's threads together, and of the clock."""

    cpu_s: float
    wall_s: float


class Stopwatch:
    """Counts records; what comes before the first one, such as joining a group, is not measured."""

    def __init__(self, records: int) -> None:
        self._records = records
        self._come = 0
        self._began = self._ended = (0.0, 0.0)
        self._deadline = time.monotonic() + TIMEOUT_S

    def tick(self) -> None:
        """A record has been dealt with."""
        self._come += 1
        if self._come == 1:
            self._began = time.process_time(), time.monotonic()
        if self.is_over:
            self._ended = time.process_time(), time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether all have come."""
        return self._come >= self._records

    def wants_more(self) -> bool:
        """Whether some are still to come. Raises TimeoutError when they do not."""
        if time.monotonic() > self._deadline:
            raise TimeoutError(f"{self._come} of {self._records} records came in {TIMEOUT_S:.0f} s")
        return not self.is_over

    def cost(self) -> Cost:
        """What each record but the first has cost."""
        cpu, wall = (end - begin for begin, end in zip(self._began, self._ended, strict=True))
        return Cost(cpu / (self._records - 1), wall / (self._records - 1))
