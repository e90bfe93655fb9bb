"""Cost model of UNet steps, learnt from the steps that were run. Pure: no torch, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from cachetools import LRUCache

from worker.engine.measured_times import MeasuredTimes


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
    """

    stage: Stage
    height: int
    width: int
    chunks: int = 1
    guided: bool = True
    samples: int | None = None

    def rows(self, most: int) -> int:
        """Return the rows that a call may have, where memory or settings allow `most`."""
        return most if self.samples is None else min(most, self.samples // self._samples_per_row)

    def padded(self, most: int) -> int | None:
        """Return the samples that a call is padded to, where memory allows `most` rows; None for no padding."""
        if self.samples is None:
            return None
        return min(self.samples, most * self._samples_per_row)

    @property
    def _samples_per_row(self) -> int:
        return 2 if self.guided else 1


# Groups that are remembered; requests choose sizes and prompt lengths freely.
GROUPS_MAX = 256
# What a refusal takes off a bound until the next measurement.
_DOUBT = 0.95


@dataclass(slots=True)
class CostModel:
    """Seconds per step by group and number of rows, and seconds of decoding by latent shape.

    A padded step is one of as many rows as it is padded to. There are two kinds of answers: what to expect
    (`step_seconds`), and a lower bound (`least_…`), which is below whatever was measured, and 0 for what was measured
    too seldom (`measured_times.py`).
    """

    _steps: LRUCache[Group, dict[int, MeasuredTimes]] = field(default_factory=lambda: LRUCache(GROUPS_MAX))
    _decodes: LRUCache[tuple[int, int], MeasuredTimes] = field(default_factory=lambda: LRUCache(GROUPS_MAX))
    # By what its bounds are multiplied, for groups whose jobs were refused since the last measurement.
    _doubts: LRUCache[Group, float] = field(default_factory=lambda: LRUCache(GROUPS_MAX))

    def observe(self, group: Group, rows: int, *seconds: float) -> None:
        """Record what steps of `rows` rows took, in their order: the first one ever of its kind is cold.

        A warm-up tells all of its steps at once. A duration must come from a clock that nobody sets.
        """
        times = self._steps.setdefault(group, {}).setdefault(rows, MeasuredTimes())
        for each in seconds:
            times.add(each)
        self._doubts.pop(group, None)

    def observe_decode(self, height: int, width: int, *seconds: float) -> None:
        """Record what decoding one picture of this latent shape took, each time, in their order."""
        times = self._decodes.setdefault((height, width), MeasuredTimes())
        for each in seconds:
            times.add(each)

    def doubt(self, group: Group) -> None:
        """Lower the bounds of a group a little, after a job was refused by them.

        Measurements alone correct a bound, and a worker that refuses every job of a group never gets one. So refusals
        lower it, until a job is let through and its steps are measured.
        """
        self._doubts[group] = self._doubts.get(group, 1.0) * _DOUBT

    def step_seconds(self, group: Group, rows: int) -> float | None:
        """Return the expected seconds of a step, or None if no step of this group was ever run.

        An unseen number of rows is interpolated between its seen neighbours. Outside of them the time is taken to be
        proportional to the rows. That overestimates larger batches by what batching gains (little on a busy GPU at
        1024², more at 512²), until such steps correct it.
        """
        seen = self._settled(group) or self._any(group)
        lower = max((n for n in seen if n <= rows), default=None)
        upper = min((n for n in seen if n >= rows), default=None)
        if lower is None or upper is None:
            nearest = upper if lower is None else lower
            return None if nearest is None else seen[nearest] * rows / nearest
        if lower == upper:
            return seen[lower]
        return seen[lower] + (seen[upper] - seen[lower]) * (rows - lower) / (upper - lower)

    def least_seconds(self, group: Group, rows: int) -> float:
        """Return a lower bound of the seconds of a step of `rows` rows; 0 where too few were measured.

        An unseen number of rows costs no less than its share of a larger step, nor than a smaller step.
        """
        bounds = self._least(group)
        if rows not in bounds:
            return min((least * min(1.0, rows / n) for n, least in bounds.items()), default=0.0)
        return bounds[rows]

    def least_seconds_at_most(self, group: Group, most: int) -> float:
        """Return a lower bound of the seconds of a step of at most `most` rows."""
        return min(self.least_seconds(group, rows) for rows in range(1, most + 1))

    def least_seconds_per_row(self, group: Group, most: int) -> float:
        """Return a lower bound of a row's share of a step of at most `most` rows, in seconds.

        A batch larger than any seen one is assumed to cost no more than the largest seen one.
        """
        return min(self.least_seconds(group, rows) / rows for rows in range(1, most + 1))

    def least_decode_seconds(self, group: Group) -> float:
        """Return a lower bound of the seconds from the last step to the pixels."""
        times = self._decodes.get((group.height, group.width))
        return 0.0 if times is None else (times.least or 0.0) * self._doubts.get(group, 1.0)

    def best_rows(self, group: Group, limit: int) -> int:
        """Return the smallest batch of at most `limit` rows that gives about the most rows per second.

        While a size up to `limit` was run too seldom, the result is `limit`: else one slow step would decide that a
        size is not used again, and never be put right.
        """
        seen = self._settled(group)
        best, best_rate = limit, 0.0
        for rows in range(1, limit + 1):
            seconds = seen.get(rows)
            if not seconds:  # a time of 0, from a clock that is too coarse, counts as seldom run
                return limit
            if rows / seconds > best_rate * _WORTHWHILE:
                best, best_rate = rows, rows / seconds
        return best

    def _settled(self, group: Group) -> dict[int, float]:
        return {n: times.expected for n, times in self._times(group) if times.settled and times.expected is not None}

    def _any(self, group: Group) -> dict[int, float]:
        return {n: times.expected for n, times in self._times(group) if times.expected is not None}

    def _least(self, group: Group) -> dict[int, float]:
        doubt = self._doubts.get(group, 1.0)
        return {n: times.least * doubt for n, times in self._times(group) if times.least is not None}

    def _times(self, group: Group) -> Iterable[tuple[int, MeasuredTimes]]:
        return self._steps.get(group, {}).items()


# A larger batch delays every row in it, so it must raise the rows per second by at least this factor.
_WORTHWHILE = 1.02
