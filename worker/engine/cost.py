"""What one UNet step costs, learnt from the steps that were run. Pure: no torch, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum


class Stage(IntEnum):
    """Which UNet a row needs next."""

    BASE = 0
    REFINER = 1


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one group can share a UNet call: the same stage, latent shape (height, width) and prompt length.

    `chunks` of 77 tokens each. Filling shorter prompts up would let them share a call with longer ones, but then a
    picture would depend on its company.
    """

    stage: Stage
    height: int
    width: int
    chunks: int = 1


# Weight of a new sample: a few dozen steps follow a change of clocks or neighbours, one outlier does not.
_SMOOTHING = 0.1


@dataclass(slots=True)
class CostModel:
    """Seconds per step by group and number of rows, as an exponential moving average.

    With `padded_to` every step is as large as a full batch, so the number of rows does not matter.
    """

    padded_to: int | None = None
    _seconds: dict[tuple[Group, int], float] = field(default_factory=dict)
    _tail: dict[tuple[int, int], float] = field(default_factory=dict)

    def observe(self, group: Group, rows: int, seconds: float) -> None:
        """Learn that a step of `rows` rows took `seconds`."""
        key = (group, self.padded_to or rows)
        old = self._seconds.get(key)
        self._seconds[key] = seconds if old is None else old + _SMOOTHING * (seconds - old)

    def observe_decode(self, height: int, width: int, seconds: float) -> None:
        """Learn what decoding one picture of this latent shape took."""
        key = (height, width)
        old = self._tail.get(key)
        self._tail[key] = seconds if old is None else old + _SMOOTHING * (seconds - old)

    def step_seconds(self, group: Group, rows: int) -> float | None:
        """Expected seconds of a step, or None where nothing like it was ever run.

        An unseen number of rows lies on the line between its seen neighbours. Outside of them it is
        in proportion to the rows: a busy GPU gains little from batching (DESIGN facts, SDXL 9), so this
        errs on the dear side upwards and is corrected by the first such step.
        """
        wanted = self.padded_to or rows
        seen = self._seen(group)
        lower = max((n for n in seen if n <= wanted), default=None)
        upper = min((n for n in seen if n >= wanted), default=None)
        if lower is None or upper is None:
            nearest = upper if lower is None else lower
            return None if nearest is None else seen[nearest] * wanted / nearest
        if lower == upper:
            return seen[lower]
        return seen[lower] + (seen[upper] - seen[lower]) * (wanted - lower) / (upper - lower)

    def least_seconds(self, group: Group, slots: int) -> float:
        """What a step of at most `slots` rows takes at least; 0 where none was ever run."""
        return min(self.step_seconds(group, rows) or 0.0 for rows in range(1, slots + 1))

    def least_seconds_per_row(self, group: Group, slots: int) -> float:
        """A row's part of a step of at most `slots` rows, at least; 0 where none was ever run.

        Batches larger than any seen one may turn out to cost no more than that one.
        """
        largest = max(self._seen(group), default=1)
        sizes = range(1, slots + 1)
        return min((self.step_seconds(group, min(rows, largest)) or 0.0) / rows for rows in sizes)

    def _seen(self, group: Group) -> dict[int, float]:
        return {n: seconds for (g, n), seconds in self._seconds.items() if g == group}

    def tail_seconds(self, group: Group) -> float:
        """Expected seconds from the last step to the pixels; 0 where none was ever decoded."""
        return self._tail.get((group.height, group.width), 0.0)

    def best_rows(self, group: Group, limit: int) -> int:
        """The smallest batch of at most `limit` rows that gives the most rows per second.

        Sizes that were never run count as free gains, so that each is tried once.
        """
        if self.padded_to is not None:
            return limit
        best, best_rate = limit, 0.0
        for rows in range(1, limit + 1):
            seconds = self._seconds.get((group, rows))
            if not seconds:  # a clock too coarse to tell counts as never run
                return limit
            if rows / seconds > best_rate * _WORTHWHILE:
                best, best_rate = rows, rows / seconds
        return best


# A larger batch delays every row in it, so it must gain at least this much to be worth it.
_WORTHWHILE = 1.02
