"""Whether a newcomer can be done in time: a lower bound on the time that it needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from worker.engine.schedule.rows import QueuedRow, Segment
from worker.engine.schedule.sizes import StepSizes


def least_seconds(sizes: StepSizes, lane_rows: Iterable[QueuedRow], segments: Sequence[Segment]) -> float:
    """A lower bound, in seconds, on the time until the last step of a newcomer is done.

    Its own steps one after the other, once all rows of its lane and group have left but those that fit
    into a step beside it. Rows of other lanes or groups do not count: the guaranteed share can pass them by.
    Steps count with the least time that any of their kind took, and as nothing where too few were measured.

    Args:
        lane_rows: the rows of the newcomer's lane.
        segments: the newcomer's.
    """
    group = segments[0].group
    ahead = sorted(row.steps_left for row in lane_rows if row.group == group and row.loras == segments[0].loras)
    # The longest ones may still be in the batch when the newcomer joins it.
    before = sum(ahead[: max(0, len(ahead) - sizes.rows_at_most(group) + 1)])
    own = sum(segment.steps * sizes.least_seconds(segment.group) for segment in segments)
    return before * sizes.least_seconds_per_row(group) + own
