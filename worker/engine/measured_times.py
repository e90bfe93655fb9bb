"""What is known of one kind of work from how long it took: what to expect of it, and what it takes at least. Pure."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

# The median of so many follows a lasting change after half of them, and no single stall moves it.
WINDOW = 9
# Warm measurements that are enough for a bound and a choice: one that a stall fell into, or two, are not.
WARM_ENOUGH = 3


@dataclass(slots=True)
class MeasuredTimes:
    """Measurements of one kind of work, in seconds.

    The first is cold: libraries choose kernels, memory is allocated, graphs are compiled. It counts only as long as
    there is no other, and then only for `expected`.
    """

    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _warm: int = -1
    _shortest: float = math.inf
    _expected: float | None = None

    def add(self, seconds: float) -> None:
        """Take a measurement; one that is negative or not finite, from a clock that was set, is ignored."""
        if not (math.isfinite(seconds) and seconds >= 0):
            return
        self._warm += 1
        if self._warm <= 1:
            # The cold one makes room for the first warm one.
            self._recent.clear()
        self._recent.append(seconds)
        self._expected = median(self._recent)
        self._shortest = min(self._shortest, seconds)

    @property
    def expected(self) -> float | None:
        """The median of the last measurements; None where there is none."""
        return self._expected

    @property
    def settled(self) -> bool:
        """Whether there are enough warm measurements for one stall to change nothing."""
        return self._warm >= WARM_ENOUGH

    @property
    def least(self) -> float | None:
        """The shortest of all measurements; None where there are too few to call it a bound."""
        return self._shortest if self.settled else None
