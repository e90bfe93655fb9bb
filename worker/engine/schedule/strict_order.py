"""The batch that is due without the guaranteed share: the most urgent row's group, lane by lane."""

from __future__ import annotations

from collections.abc import Sequence

from worker.engine.schedule.lanes import Lanes
from worker.engine.schedule.rows import QueuedRow
from worker.engine.schedule.sizes import StepSizes
from worker.job import Lane


class StrictOrder:
    """Forms batches of rows that can share a step.

    Args:
        urgent_slowdown_max: how many times longer a step of urgent rows may take for the rows of lower lanes in it.
    """

    def __init__(self, lanes: Lanes, sizes: StepSizes, urgent_slowdown_max: float) -> None:
        self._lanes = lanes
        self._sizes = sizes
        self._urgent_slowdown_max = urgent_slowdown_max

    def batch(self) -> list[QueuedRow]:
        """The batch of the row that is first by strict order; empty where there is none."""
        leader = next(self._lanes.in_order(), None)
        return [] if leader is None else self.led_by(leader)

    def led_by(self, leader: QueuedRow) -> list[QueuedRow]:
        """The batch of the leader's group: its lane first, then the others in their order."""
        limit = self._sizes.limit(leader.group)
        batch: list[QueuedRow] = []
        for row in self._lanes.in_order(first=leader.lane):
            if len(batch) >= limit:
                break
            if row.fits(leader) and self._affordable(row, batch):
                batch.append(row)
        return batch

    def _affordable(self, row: QueuedRow, batch: Sequence[QueuedRow]) -> bool:
        """Whether a row of a lower lane may join a batch led by an urgent one."""
        if not batch or batch[0].lane is not Lane.URGENT or row.lane is Lane.URGENT:
            return True
        urgent = sum(other.lane is Lane.URGENT for other in batch)
        without = self._sizes.step_seconds(row.group, urgent)
        together = self._sizes.step_seconds(row.group, len(batch) + 1)
        return without is None or together is None or together <= without * self._urgent_slowdown_max
