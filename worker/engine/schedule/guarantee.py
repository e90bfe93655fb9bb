"""The share of the steps that is guaranteed to a lane whose head has waited beyond its bound.

Such a lane is owed `share` of every step from then on; what strict order does not give it, it saves up and spends on
rows that come before all others. So over any N steps it gets at least share × N - 1 of them, less one more share where
another lane is owed its own, or every row that it has in a step's group is in that step: more it cannot use, and what
it is owed beyond one step is then forgiven.

Why this holds: whoever is owed most goes first, and going first with a step or more owed it leads the step,
fills it, or has all of its rows in it. Each leaves it with at most one step owed, so at most one lane is
owed more than that, which is the next to go first. (A third overdue lane leads by right. At shares of at
most 0.3 it is never kept out for so long that all three come near a whole step at once.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worker.engine.schedule.lanes import Lanes
from worker.engine.schedule.rows import QueuedRow
from worker.engine.schedule.sizes import StepSizes
from worker.engine.schedule.strict_order import StrictOrder
from worker.job import Lane

# Ten times 0.1 is less than 1 in binary.
_ROUNDING = 1e-9

# Steps owed to each overdue lane, that which is being chosen included.
Owed = Mapping[Lane, float]


class Guarantee:
    """Keeps the steps owed to each lane: `settle` or `keep` says what a chosen step leaves, `pay` that it was run.

    A step that fails pays nothing.
    """

    def __init__(self, share: float, lanes: Lanes, sizes: StepSizes, strict: StrictOrder) -> None:
        self._share = share
        self._lanes = lanes
        self._sizes = sizes
        self._strict = strict
        self._credit = dict.fromkeys(Lane, 0.0)
        self._credit_after = dict.fromkeys(Lane, 0.0)

    def owed(self) -> Owed:
        """What is owed to the lanes that are overdue."""
        return {head.lane: self._credit[head.lane] + self._share for head in self._lanes.overdue()}

    def amend(self, batch: list[QueuedRow], owed: Owed) -> list[QueuedRow]:
        """`batch`, amended for the lanes that are owed enough; whoever is owed most goes first.

        A row of the batch's own group costs its part of the step; a head of another group
        has to save up for a whole step, which it then leads.
        """
        heads = [self._lanes.of(lane)[0] for lane in sorted(owed, key=lambda o: -owed[o])]
        if heads and not heads[0].fits(batch[0]) and owed[heads[0].lane] + _ROUNDING >= 1:
            return self._strict.led_by(heads[0])
        limit = self._sizes.limit(batch[0].group)
        paid = self._paid(batch, heads, owed, limit)
        others = [row for row in batch if row not in paid][: limit - len(paid)]
        stay = [row for row in batch if row in paid or row in others]
        return stay + [row for row in paid if row not in batch]

    def settle(self, owed: Owed, batch: Sequence[QueuedRow], *, first_leads: bool) -> None:
        """The step of `batch` pays for what it gives each lane.

        Args:
            first_leads: the step is of the group of its first row, for that row's sake.
        """
        self._credit_after = {lane: self._left(lane, owed.get(lane, 0.0), batch, first_leads) for lane in Lane}

    def keep(self) -> None:
        """The chosen step pays nothing of what is owed."""
        self._credit_after = dict(self._credit)

    def pay(self) -> None:
        """The chosen step was run."""
        self._credit = self._credit_after

    def _paid(self, batch: list[QueuedRow], heads: list[QueuedRow], owed: Owed, limit: int) -> list[QueuedRow]:
        """The rows that what is owed pays for, each lane's first ones; no other row takes their places.

        Rows that are due by right are among them, or those that another lane pays for would push them out.
        """
        paid: list[QueuedRow] = []
        size = len(batch)
        for head in heads:
            peers = (row for row in self._lanes.of(head.lane) if row.fits(batch[0]) and row.fits(head))
            for count, row in enumerate(peers, start=1):
                size_with = size + (row not in batch)
                if len(paid) == limit or count > owed[head.lane] * min(limit, size_with) + _ROUNDING:
                    break
                paid.append(row)
                size = size_with
        return paid

    def _left(self, lane: Lane, owed: float, batch: Sequence[QueuedRow], first_leads: bool) -> float:
        """What is still owed to the lane after the step; at most one step where it could not have used more.

        Without that limit, a row whose part of a large batch is below `share` would save up without end,
        and take step after step from the urgent ones once its group is another.
        """
        left = max(0.0, owed - self._received(lane, batch, first_leads))
        return 1.0 if left > 1 and self._all_in(lane, batch) else left

    def _all_in(self, lane: Lane, batch: Sequence[QueuedRow]) -> bool:
        """Whether the lane has its head in the batch, and every other row that fits it."""
        rows = self._lanes.of(lane)
        return rows[0] in batch and all(row in batch for row in rows if row.fits(batch[0]))

    def _received(self, lane: Lane, batch: Sequence[QueuedRow], first_leads: bool) -> float:
        """How much of the step the lane gets: all of one that its head leads, else its rows' part.

        A step without the head counts for nothing: later rows of another group would starve it.
        """
        head = self._lanes.head(lane)
        if head not in batch:
            return 0.0
        return 1.0 if first_leads and batch[0] is head else sum(row.lane is lane for row in batch) / len(batch)
