"""The settings of the step scheduler, and what another ordering than its own chooses from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker.engine.schedule.rows import QueuedRow

# The bound on the rows of a step where nothing else bounds them: what SLOTS may be at most.
ROWS_MAX = 64


@dataclass(frozen=True, slots=True)
class Policy:
    """How the steps are shared out. `bounds_s` are the waits per lane beyond which `share` is owed.

    `rows_max` bounds the rows of a step at first, beside the size of its group's calls. Three lanes at more than a
    third each could not all be given their share.
    """

    rows_max: int = ROWS_MAX
    share: float = 0.10
    bounds_s: tuple[float, float, float] = (1.0, 2.0, 5.0)
    urgent_slowdown_max: float = 1.25


@dataclass(frozen=True, slots=True)
class Candidates:
    """What an ordering chooses from.

    Args:
        arrived: every row, in the order of arrival.
        running: the rows of the step before that have not finished, in that step's order.
        rows_max: rows that a step may have; that of a group may have fewer (`Group.rows`).
    """

    arrived: tuple[QueuedRow, ...]
    running: tuple[QueuedRow, ...]
    rows_max: int

    def by_lane(self) -> list[QueuedRow]:
        """Every row, the most urgent lane first, first-come within a lane."""
        return sorted(self.arrived, key=lambda row: row.lane)


# The rows of the next step: no more than may be, all of one group, not empty where there are candidates.
Ordering = Callable[[Candidates], Sequence[QueuedRow]]
