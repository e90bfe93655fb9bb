"""The policies that ours is compared with: the worker's step scheduler with another ordering.

Only the ordering differs; the bookkeeping is shared. The guaranteed share is switched off for the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from worker.engine.schedule.policy import Candidates, Ordering, Policy
from worker.engine.schedule.rows import QueuedRow
from worker.engine.schedule.scheduler import StepScheduler

OURS = "step-level, preemptive (ours)"
FIFO = "FIFO batches"
PRIORITY = "priority, run to completion"
STEP = "step-level, no preemption"


def fifo_batches(candidates: Candidates) -> list[QueuedRow]:
    """A batch of the oldest rows is formed when the device is free, and runs until its last row is done."""
    return list(candidates.running) or _first(candidates.arrived, candidates.rows_max)


def priority_batches(candidates: Candidates) -> list[QueuedRow]:
    """As FIFO batches, but formed of the most urgent rows."""
    return list(candidates.running) or _first(candidates.by_lane(), candidates.rows_max)


def step_priority(candidates: Candidates) -> list[QueuedRow]:
    """Free places are filled at every step by the most urgent rows; a row that has started stays until it is done."""
    waiting = (row for row in candidates.by_lane() if row not in candidates.running)
    return _first([*candidates.running, *waiting], candidates.rows_max)


OTHERS: dict[str, Ordering] = {FIFO: fifo_batches, PRIORITY: priority_batches, STEP: step_priority}
NAMES = (*OTHERS, OURS)


def make(name: str, bounds_s: tuple[float, float, float]) -> StepScheduler:
    """The step scheduler of a policy; `bounds_s` as in `Policy`, for ours."""
    if name == OURS:
        return StepScheduler(Policy(bounds_s=bounds_s))
    return StepScheduler(Policy(share=0.0, bounds_s=(inf, inf, inf)), ordering=OTHERS[name])


def _first(rows: Iterable[QueuedRow], rows_max: int) -> list[QueuedRow]:
    """As many as fit, of the first one's group."""
    rows = list(rows)
    return [row for row in rows if row.group == rows[0].group][: rows[0].group.rows(rows_max)] if rows else []
