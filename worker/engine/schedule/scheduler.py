"""The step scheduler: takes rows, chooses those of every step, and counts their steps."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from worker.engine.cost import CostModel, Group
from worker.engine.schedule.deadline import least_seconds
from worker.engine.schedule.guarantee import Guarantee
from worker.engine.schedule.lanes import Lanes
from worker.engine.schedule.policy import Candidates, Ordering, Policy
from worker.engine.schedule.room import room
from worker.engine.schedule.rows import Key, QueuedRow, Segment, State
from worker.engine.schedule.sizes import StepSizes
from worker.engine.schedule.strict_order import StrictOrder
from worker.engine_interface import Room
from worker.errors import ProtocolError
from worker.job import Lane


@dataclass(slots=True)
class Counts:
    """Totals that must always add up: submitted = live + finished + removed."""

    submitted: int = 0
    finished: int = 0
    removed: int = 0
    preemptions: int = 0
    steps: int = 0
    row_steps: int = 0


class StepScheduler:
    """Chooses the rows of every step. One thread owns it.

    `held_up` is the row that would lead the step, but for its set, which has to be merged first.

    Args:
        ordering: replaces strict order, where the bench compares other policies; the guaranteed share comes on top.
    """

    def __init__(
        self, policy: Policy | None = None, cost: CostModel | None = None, *, ordering: Ordering | None = None
    ) -> None:
        policy = Policy() if policy is None else policy
        self.cost = CostModel() if cost is None else cost
        self.counts = Counts()
        self.sizes = StepSizes(self.cost, policy.rows_max)
        self.lanes = Lanes(policy.bounds_s)
        self.held_up: Key | None = None
        self._ordering = ordering
        self._strict = StrictOrder(self.lanes, self.sizes, policy.urgent_slowdown_max)
        self._guarantee = Guarantee(policy.share, self.lanes, self.sizes, self._strict)
        self._batch: tuple[Key, ...] = ()

    def __len__(self) -> int:
        return len(self.lanes.rows)

    def __contains__(self, key: Key) -> bool:
        return key in self.lanes.rows

    def submit(self, key: Key, lane: Lane, segments: Sequence[Segment], now: float) -> None:
        """Add a row at the end of its lane.

        Raises:
            ProtocolError: the key is there already, or a segment has no step.
        """
        if key in self:
            raise ProtocolError(f"{key!r} was submitted twice")
        if not segments or any(segment.steps < 1 for segment in segments):
            raise ProtocolError(f"{key!r} has a segment without steps")
        self.lanes.add(QueuedRow(key, lane, list(segments), waiting_since=now))
        self.counts.submitted += 1

    def choose(self, now: float, ready: Callable[[QueuedRow], bool] = lambda _: True) -> tuple[Key, ...]:
        """The rows of the next step, the one that leads it first; empty when there are none.

        Where the set of those rows is not ready, `held_up` names the one that leads them, and the step goes to rows of
        its lane whose set is; rows of lower lanes wait with it. That step pays nothing of what is owed.

        Args:
            ready: whether a row can be stepped with what is merged now.
        """
        self.held_up, self.lanes.now = None, now
        if not self.lanes.rows:
            return ()
        owed = self._guarantee.owed()
        by_right = self._by_right()
        chosen = self._guarantee.amend(by_right, owed)
        if not ready(chosen[0]):
            self.held_up = chosen[0].key
            chosen = self._meanwhile(chosen[0].lane, ready)
            self._guarantee.keep()
        else:
            leads = chosen[0] is by_right[0] or not chosen[0].fits(by_right[0])
            self._guarantee.settle(owed, chosen, first_leads=leads)
        self._seat(chosen, now)
        return self._batch

    def advance(self, batch: Sequence[Key]) -> tuple[Key, ...]:
        """Count one step for every row of `batch`; returns the rows that have finished, now removed."""
        if not batch or tuple(batch) != self._batch:
            raise ProtocolError("advance() does not match the last choose()")
        self._guarantee.pay()
        self.counts.steps += 1
        self.counts.row_steps += len(batch)
        finished = []
        for key in batch:
            row = self.lanes.rows[key]
            row.count_step()
            if not row.segments:
                self.lanes.remove(row)
                self.counts.finished += 1
                finished.append(key)
        self._batch = tuple(key for key in self._batch if key in self)
        return tuple(finished)

    def remove(self, key: Key) -> None:
        """Remove an unfinished row; a key that is not there is ignored."""
        row = self.lanes.rows.get(key)
        if row is not None:
            self.lanes.remove(row)
            self._batch = tuple(k for k in self._batch if k != key)
            self.counts.removed += 1

    def resize(self, rows_max: int) -> None:
        """Change the number of rows that one step may have at most."""
        self.sizes.rows_max = rows_max

    def observe(self, batch: Sequence[Key], seconds: float) -> None:
        """Record that the step of `batch`, which was chosen last, took `seconds`."""
        self.sizes.observe(self.group(batch[0]), len(batch), seconds)

    def group(self, key: Key) -> Group:
        """What the row needs next. Raises KeyError for one that has left."""
        return self.lanes.rows[key].group

    def loras(self, key: Key) -> Hashable:
        """The set that the row needs next. Raises KeyError for one that has left."""
        return self.lanes.rows[key].loras

    def state(self, key: Key) -> State:
        """Where the row stands. Raises KeyError for one that has left."""
        return self.lanes.rows[key].state

    def next_set(self) -> Hashable:
        """The set that is needed next, by strict order; None where no row needs one."""
        return next((row.loras for row in self.lanes.in_order() if row.loras is not None), None)

    def newcomer_above(self, lane: Lane) -> bool:
        """Whether a row of a more urgent lane than `lane` can have its very first step next."""
        return any(row.lane < lane and row.state is State.WAITING for row in self._by_right())

    def shortest(self, lane: Lane, segments: Sequence[Segment]) -> float:
        """A lower bound, in seconds, on the time until a newcomer of `lane` is decoded; see `deadline`."""
        steps_s = least_seconds(self.sizes, self.lanes.of(lane), segments)
        return steps_s + self.cost.least_decode_seconds(segments[-1].group)

    def room(self) -> Room:
        """By lane, for how many rows of this lane and those above there is a use; see `room`."""
        return room(self.sizes, self.lanes.rows.values(), self._batch_rows())

    def depth(self) -> dict[tuple[Lane, State], int]:
        """Rows by lane and state, for the metrics."""
        table = dict.fromkeys(((lane, state) for lane in Lane for state in State), 0)
        # A copy, for the thread that asks is not the one that schedules.
        for row in list(self.lanes.rows.values()):
            table[row.lane, row.state] += 1
        return table

    def check_invariants(self) -> None:
        """Raise ProtocolError where an invariant does not hold; the engine calls it when idle."""
        counts, rows = self.counts, self.lanes.rows.values()
        if counts.submitted != len(rows) + counts.finished + counts.removed:
            raise ProtocolError(f"rows do not add up: {counts}, {len(rows)} live")
        self.lanes.check()
        if any(not row.segments or row.steps_left <= 0 for row in rows):
            raise ProtocolError("a row without steps is still here")
        active = {row.key for row in rows if row.state is State.ACTIVE}
        if active != set(self._batch) or len(active) != len(self._batch):
            raise ProtocolError("the active rows are not the batch")
        if any((row.state is State.ACTIVE) != (row.waiting_since is None) for row in rows):
            raise ProtocolError("a row both waits and runs")

    def _by_right(self) -> list[QueuedRow]:
        """The batch that is due without the guaranteed share."""
        if self._ordering is None:
            return self._strict.batch()
        arrived, running = tuple(self.lanes.rows.values()), tuple(self._batch_rows())
        return list(self._ordering(Candidates(arrived, running, self.sizes.rows_max)))

    def _meanwhile(self, lane: Lane, ready: Callable[[QueuedRow], bool]) -> list[QueuedRow]:
        """The rows of a lane that can be stepped while the set of another one of it is merged."""
        first = next((row for row in self.lanes.in_order_of(lane) if ready(row)), None)
        return [] if first is None else [row for row in self._strict.led_by(first) if row.lane is lane]

    def _batch_rows(self) -> list[QueuedRow]:
        return [self.lanes.rows[key] for key in self._batch]

    def _seat(self, chosen: Sequence[QueuedRow], now: float) -> None:
        """Make these rows the batch; a row that was in it and is not any more is preempted."""
        for row in self._batch_rows():
            if row not in chosen:
                row.park(now)
                self.counts.preemptions += 1
        for row in chosen:
            row.activate(now)
        self._batch = tuple(row.key for row in chosen)
