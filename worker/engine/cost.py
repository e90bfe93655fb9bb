"""Cost model of UNet steps, learnt from the steps that were run. Pure: no torch, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum


class Stage(IntEnum):
    """The UNet that a row needs next."""

    BASE = 0
    REFINER = 1


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that can share a UNet call: they have the same stage, latent shape, prompt length and samples.

    `height` and `width` are those of the latents, `chunks` is the number of 77-token chunks of the prompt. Shorter
    prompts are not padded to share a call with longer ones, because a picture would then depend on the other rows.
    `samples` is what every call is padded to; None where a call has as many as its rows need. A guided row has two.
    `compiled` says that the step runs on the fast path (`compiled/`), whose bits are not those of the other one.
    """

    stage: Stage
    height: int
    width: int
    chunks: int = 1
    guided: bool = True
    samples: int | None = None
    compiled: bool = False

    def rows(self, most: int) -> int:
        """Return the rows that a call may have, where memory or settings allow `most`."""
        return most if self.samples is None else min(most, self.samples // self.samples_per_row)

    def padded(self, most: int) -> int | None:
        """Return the samples that a call is padded to, where memory allows `most` rows; None for no padding."""
        if self.samples is None:
            return None
        return min(self.samples, most * self.samples_per_row)

    @property
    def samples_per_row(self) -> int:
        return 2 if self.guided else 1


# Weight of a new sample: the average follows a lasting change within a few dozen steps, and ignores a single outlier.
_SMOOTHING = 0.1


@dataclass(slots=True)
class CostModel:
    """Seconds per step by group and number of rows, as exponential moving averages.

    A padded step is one of as many rows as it is padded to.
    """

    _seconds: dict[tuple[Group, int], float] = field(default_factory=dict)
    _tail: dict[tuple[int, int], float] = field(default_factory=dict)

    def observe(self, group: Group, rows: int, seconds: float) -> None:
        """Record that a step of `rows` rows took `seconds`."""
        key = (group, rows)
        old = self._seconds.get(key)
        self._seconds[key] = seconds if old is None else old + _SMOOTHING * (seconds - old)

    def observe_decode(self, height: int, width: int, seconds: float) -> None:
        """Record that decoding one picture of this latent shape took `seconds`."""
        key = (height, width)
        old = self._tail.get(key)
        self._tail[key] = seconds if old is None else old + _SMOOTHING * (seconds - old)

    def step_seconds(self, group: Group, rows: int) -> float | None:
        """Return the expected seconds of a step, or None if no step of this group was ever run.

        An unseen number of rows is interpolated between its seen neighbours. Outside of them the time is taken to be
        proportional to the rows. That overestimates larger batches by what batching gains (little on a busy GPU at
        1024², more at 512²), until the first such step corrects it.
        """
        seen = self._seen(group)
        lower = max((n for n in seen if n <= rows), default=None)
        upper = min((n for n in seen if n >= rows), default=None)
        if lower is None or upper is None:
            nearest = upper if lower is None else lower
            return None if nearest is None else seen[nearest] * rows / nearest
        if lower == upper:
            return seen[lower]
        return seen[lower] + (seen[upper] - seen[lower]) * (rows - lower) / (upper - lower)

    def least_seconds(self, group: Group, most: int) -> float:
        """Return a lower bound of the seconds of a step of at most `most` rows; 0 if none was ever run."""
        return min(self.step_seconds(group, rows) or 0.0 for rows in range(1, most + 1))

    def least_seconds_per_row(self, group: Group, most: int) -> float:
        """Return a lower bound of a row's share of a step of at most `most` rows, in seconds; 0 if none was ever run.

        A batch larger than any seen one is assumed to cost no more than the largest seen one.
        """
        largest = max(self._seen(group), default=1)
        sizes = range(1, most + 1)
        return min((self.step_seconds(group, min(rows, largest)) or 0.0) / rows for rows in sizes)

    def _seen(self, group: Group) -> dict[int, float]:
        return {n: seconds for (g, n), seconds in self._seconds.items() if g == group}

    def tail_seconds(self, group: Group) -> float:
        """Return the expected seconds from the last step to the pixels; 0 if no such picture was ever decoded."""
        return self._tail.get((group.height, group.width), 0.0)

    def best_rows(self, group: Group, limit: int) -> int:
        """Return the smallest batch of at most `limit` rows that gives about the most rows per second.

        While a size up to `limit` was never run, the result is `limit`.
        """
        best, best_rate = limit, 0.0
        for rows in range(1, limit + 1):
            seconds = self._seconds.get((group, rows))
            if not seconds:  # a time of 0, from a clock that is too coarse, counts as never run
                return limit
            if rows / seconds > best_rate * _WORTHWHILE:
                best, best_rate = rows, rows / seconds
        return best


# A larger batch delays every row in it, so it must raise the rows per second by at least this factor.
_WORTHWHILE = 1.02
