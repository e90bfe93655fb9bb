"""The policies that ours is compared with. Each is the worker's scheduler with another order of rows.

What is theirs is `_by_right`, the batch that is due; the bookkeeping is shared, so that nothing else differs. The
guaranteed share is switched off for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from worker.engine.cost import CostModel
from worker.engine.schedule import Policy, StepScheduler, _Row

OURS = "step-level, preemptive (ours)"
FIFO = "FIFO batches"
PRIORITY = "priority, run to completion"
STEP = "step-level, no preemption"


class FifoBatches(StepScheduler):
    """A batch of the oldest rows is formed when the device is free, and runs until its last row is done."""

    def _by_right(self) -> list[_Row]:
        return self._running() or self._first(self._rows.values())

    def _running(self) -> list[_Row]:
        return [self._rows[key] for key in self._batch]

    def _first(self, rows: Iterable[_Row]) -> list[_Row]:
        """As many as fit, of the first one's group."""
        rows = list(rows)
        return [row for row in rows if row.group == rows[0].group][: self.policy.slots]


class PriorityBatches(FifoBatches):
    """As FIFO batches, but formed of the most urgent rows."""

    def _by_right(self) -> list[_Row]:
        return self._running() or self._first(self._in_order())


class StepPriority(FifoBatches):
    """Free slots are filled at every step by the most urgent rows; who has started stays until done."""

    def _by_right(self) -> list[_Row]:
        running = self._running()
        waiting = (row for row in self._in_order() if row.key not in self._batch)
        return self._first([*running, *waiting])


OTHERS: dict[str, type[StepScheduler]] = {FIFO: FifoBatches, PRIORITY: PriorityBatches, STEP: StepPriority}
NAMES = (*OTHERS, OURS)


def make(name: str, slots: int, bounds_s: tuple[float, float, float]) -> StepScheduler:
    """The scheduler of a policy; `bounds_s` as in `Policy`, for ours."""
    cost = CostModel(padded_to=slots)
    if name == OURS:
        return StepScheduler(Policy(slots=slots, bounds_s=bounds_s), cost)
    return OTHERS[name](Policy(slots=slots, share=0.0, bounds_s=(inf, inf, inf)), cost)
