"""For how many rows the engine has a use, so that their starts are recorded in time and not before."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from worker.engine.schedule.rows import QueuedRow, State
from worker.engine.schedule.sizes import StepSizes
from worker.engine_interface import Room
from worker.job import Lane

# A row that has no more than these seconds or one step to go gives its place to another, whose start takes one commit.
START_AHEAD_S = 0.5


def room(sizes: StepSizes, rows: Collection[QueuedRow], batch: Sequence[QueuedRow]) -> Room:
    """By lane, the rows of this lane and those above for which the step that was chosen last has a use.

    One where there is none yet, since how many fit depends on its group. Beside a full step, these are rows to
    follow those that end soon. Where a lane could have more of the step, rows that cannot, because they are of
    another group, do not count.

    Args:
        rows: every row, of all lanes.
        batch: those of the step that was chosen last.
    """
    urgent, high, normal = (_room(sizes, [row for row in rows if row.lane <= lane], batch) for lane in Lane)
    return urgent, high, normal


def _room(sizes: StepSizes, rows: Sequence[QueuedRow], batch: Sequence[QueuedRow]) -> int:
    if not batch:
        return 1
    limit = sizes.limit(batch[0].group)
    ending = sum(_ends_soon(sizes, row, len(batch)) for row in rows)
    staying = sum(row.state is State.ACTIVE for row in rows) - ending
    others = sum(not row.fits(batch[0]) for row in rows) if staying < limit else 0
    return limit + ending + others


def _ends_soon(sizes: StepSizes, row: QueuedRow, batch_rows: int) -> bool:
    if row.state is not State.ACTIVE or len(row.segments) > 1:
        return False
    seconds = sizes.step_seconds(row.group, batch_rows)
    return row.steps_left == 1 or (seconds is not None and row.steps_left * seconds <= START_AHEAD_S)
