"""Which rows go into the next UNet step. Pure: no torch, no Kafka, no clock (`now` is an argument).

Policy: strict urgent > high > normal, first-come within a lane. A lane whose head has
waited beyond its bound is owed `share` of every step from then on; what strict order does not give it, it
saves up and spends on rows that come before all others. So over any N steps it gets at least share × N - 1
of them, less one more share where another lane is owed its own, or every row that it has in a step's group
is in that step: more it cannot use, and what it is owed beyond one step is then forgiven. Preemption is not
being chosen: a parked row keeps its state elsewhere.

Why this holds: whoever is owed most goes first, and going first with a step or more owed it leads the step,
fills it, or has all of its rows in it. Each leaves it with at most one step owed, so at most one lane is
owed more than that, which is the next to go first. (A third overdue lane leads by right. At shares of at
most 0.3 it is never kept out for so long that all three come near a whole step at once.)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from worker.engine.cost import CostModel, Group
from worker.errors import ProtocolError
from worker.job import Lane, Room

Key = Hashable

# The bound on the rows of a step where nothing else bounds them: what SLOTS may be at most.
ROWS_MAX = 64

# A row that has no more than these seconds or one step to go gives its place to another, whose start takes one commit.
START_AHEAD_S = 0.5


class State(Enum):
    """Where a submitted row stands; a row that has left the scheduler has none."""

    WAITING = auto()
    ACTIVE = auto()
    PARKED = auto()


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of `steps` UNet steps in one group; a refined picture has two of them."""

    group: Group
    steps: int


@dataclass(frozen=True, slots=True)
class Policy:
    """How the steps are shared out. `bounds_s` are the waits per lane beyond which `share` is owed.

    `rows_max` bounds the rows of a step, beside the size of its group's calls. Three lanes at more than a third each
    could not all be given their share.
    """

    rows_max: int = ROWS_MAX
    share: float = 0.10
    bounds_s: tuple[float, float, float] = (1.0, 2.0, 5.0)
    urgent_slowdown_max: float = 1.25


@dataclass(slots=True, eq=False)
class QueuedRow:
    """A row as the step scheduler sees it."""

    key: Key
    lane: Lane
    segments: list[Segment]
    waiting_since: float | None
    waited: float = 0.0
    state: State = State.WAITING
    steps_done: int = 0

    @property
    def group(self) -> Group:
        return self.segments[0].group

    def wait(self, now: float) -> float:
        """Seconds spent out of the batch so far, parked time included."""
        return self.waited + (0.0 if self.waiting_since is None else now - self.waiting_since)


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


@dataclass(slots=True)
class Counts:
    """Totals that must always add up: submitted = live + finished + removed."""

    submitted: int = 0
    finished: int = 0
    removed: int = 0
    preemptions: int = 0
    steps: int = 0
    row_steps: int = 0


@dataclass(slots=True)
class StepScheduler:
    """Chooses the rows of every step. One thread owns it."""

    policy: Policy = field(default_factory=Policy)
    cost: CostModel = field(default_factory=CostModel)
    # Replaces strict order, where the bench compares other policies; the guaranteed share comes on top of it.
    ordering: Ordering | None = None
    counts: Counts = field(default_factory=Counts)
    _rows: dict[Key, QueuedRow] = field(default_factory=dict)
    # Insertion order is arrival order, so the first value is the head of its lane.
    _lanes: dict[Lane, dict[Key, QueuedRow]] = field(default_factory=lambda: {lane: {} for lane in Lane})
    # Steps owed to each lane, and what they become if the chosen step is run: a step that fails pays nothing.
    _credit: dict[Lane, float] = field(default_factory=lambda: dict.fromkeys(Lane, 0.0))
    _credit_after: dict[Lane, float] = field(default_factory=lambda: dict.fromkeys(Lane, 0.0))
    _batch: tuple[Key, ...] = ()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    def submit(self, key: Key, lane: Lane, segments: Sequence[Segment], now: float) -> None:
        """Add a row at the end of its lane.

        Raises:
            ProtocolError: the key is there already, or a segment has no step.
        """
        if key in self._rows:
            raise ProtocolError(f"{key!r} was submitted twice")
        if not segments or any(segment.steps < 1 for segment in segments):
            raise ProtocolError(f"{key!r} has a segment without steps")
        row = QueuedRow(key, lane, list(segments), waiting_since=now)
        self._rows[key] = self._lanes[lane][key] = row
        self.counts.submitted += 1

    def choose(self, now: float) -> tuple[Key, ...]:
        """The rows of the next step, the one that leads it first; empty when there are none."""
        if not self._rows:
            return ()
        owed = {head.lane: self._credit[head.lane] + self.policy.share for head in self._overdue(now)}
        by_right = self._by_right()
        chosen = self._with_guarantee(by_right, owed)
        leads = chosen[0] is by_right[0] or chosen[0].group != by_right[0].group
        self._credit_after = {lane: self._left(lane, owed.get(lane, 0.0), chosen, leads) for lane in Lane}
        self._seat(chosen, now)
        return self._batch

    def advance(self, batch: Sequence[Key]) -> tuple[Key, ...]:
        """Count one step for every row of `batch`; returns the rows that have finished, now removed."""
        if not batch or tuple(batch) != self._batch:
            raise ProtocolError("advance() does not match the last choose()")
        self._credit = self._credit_after
        self.counts.steps += 1
        self.counts.row_steps += len(batch)
        finished = []
        for key in batch:
            row = self._rows[key]
            row.steps_done += 1
            if row.steps_done < row.segments[0].steps:
                continue
            row.segments.pop(0)
            row.steps_done = 0
            if not row.segments:
                self._delete(row)
                self.counts.finished += 1
                finished.append(key)
        self._batch = tuple(key for key in self._batch if key in self._rows)
        return tuple(finished)

    def remove(self, key: Key) -> None:
        """Remove an unfinished row; a key that is not there is ignored."""
        row = self._rows.get(key)
        if row is not None:
            self._delete(row)
            self._batch = tuple(k for k in self._batch if k != key)
            self.counts.removed += 1

    def resize(self, rows_max: int) -> None:
        """Change the number of rows that one step may have at most."""
        self.policy = replace(self.policy, rows_max=rows_max)

    def observe(self, batch: Sequence[Key], seconds: float) -> None:
        """Record that the step of `batch`, which was chosen last, took `seconds`."""
        group = self._rows[batch[0]].group
        self.cost.observe(group, self._charged(group, len(batch)), seconds)

    def rows_at_most(self, group: Group) -> int:
        """The rows that one step of the group may have."""
        return group.rows(self.policy.rows_max)

    def _charged(self, group: Group, rows: int) -> int:
        """The rows that a step of `rows` rows takes the time of."""
        return rows if group.samples is None else self.rows_at_most(group)

    def _limit(self, group: Group) -> int:
        """The rows that one step of the group should have: all that fit a padded one, else what is fastest."""
        most = self.rows_at_most(group)
        return most if group.samples is not None else self.cost.best_rows(group, most)

    def _step_seconds(self, group: Group, rows: int) -> float | None:
        return self.cost.step_seconds(group, self._charged(group, rows))

    def group(self, key: Key) -> Group:
        """What the row needs next. Raises KeyError for one that has left."""
        return self._rows[key].group

    def newcomer_above(self, lane: Lane) -> bool:
        """Whether a row of a more urgent lane than `lane` can have its very first step next."""
        return any(row.lane < lane and row.state is State.WAITING for row in self._by_right())

    def shortest(self, lane: Lane, segments: Sequence[Segment]) -> float:
        """A lower bound, in seconds, on the time until a newcomer of `lane` is done.

        Its own steps one after the other, once all rows of its lane and group have left but those that fit
        into a step beside it. Rows of other lanes or groups do not count: the guaranteed share can pass them by.
        Steps count with the least time that any of their kind took, and as nothing where too few were measured.
        """
        group = segments[0].group
        ahead = sorted(
            row.segments[0].steps - row.steps_done for row in self._lanes[lane].values() if row.group == group
        )
        # The longest ones may still be in the batch when the newcomer joins it.
        before = sum(ahead[: max(0, len(ahead) - self.rows_at_most(group) + 1)])
        own = sum(segment.steps * self._least_seconds(segment.group) for segment in segments)
        queue = before * self._least_seconds_per_row(group)
        return queue + own + self.cost.least_decode_seconds(segments[-1].group)

    def doubt(self, segments: Sequence[Segment]) -> None:
        """Note that a job was refused because of `shortest`, which no measurement will put right then."""
        for segment in segments:
            self.cost.doubt(segment.group)

    def _least_seconds(self, group: Group) -> float:
        most = self.rows_at_most(group)
        if group.samples is None:
            return self.cost.least_seconds_at_most(group, most)
        return self.cost.least_seconds(group, most)

    def _least_seconds_per_row(self, group: Group) -> float:
        most = self.rows_at_most(group)
        if group.samples is None:
            return self.cost.least_seconds_per_row(group, most)
        return self.cost.least_seconds(group, most) / most

    def room(self) -> Room:
        """By lane, the rows of this lane and those above for which the step that was chosen last has a use.

        One where there is none yet, since how many fit depends on its group. Beside a full step, these are rows to
        follow those that end soon. Where a lane could have more of the step, rows that cannot, because they are of
        another group, do not count.
        """
        urgent, high, normal = (self._room(lane) for lane in Lane)
        return urgent, high, normal

    def _room(self, lane: Lane) -> int:
        rows = [row for row in self._rows.values() if row.lane <= lane]
        if not self._batch:
            return 1
        group = self._rows[self._batch[0]].group
        limit = self._limit(group)
        ending = sum(self._ends_soon(row) for row in rows)
        staying = sum(row.state is State.ACTIVE for row in rows) - ending
        others = sum(row.group != group for row in rows) if staying < limit else 0
        return limit + ending + others

    def _ends_soon(self, row: QueuedRow) -> bool:
        if row.state is not State.ACTIVE or len(row.segments) > 1:
            return False
        left = row.segments[0].steps - row.steps_done
        seconds = self._step_seconds(row.group, len(self._batch))
        return left == 1 or (seconds is not None and left * seconds <= START_AHEAD_S)

    def state(self, key: Key) -> State:
        """Where the row stands. Raises KeyError for one that has left."""
        return self._rows[key].state

    def depth(self) -> dict[tuple[Lane, State], int]:
        """Rows by lane and state, for the metrics."""
        table = dict.fromkeys(((lane, state) for lane in Lane for state in State), 0)
        # A copy, for the thread that asks is not the one that schedules.
        for row in list(self._rows.values()):
            table[row.lane, row.state] += 1
        return table

    def check_invariants(self) -> None:
        """Assert every invariant; the engine calls it when idle."""
        counts = self.counts
        if counts.submitted != len(self._rows) + counts.finished + counts.removed:
            raise ProtocolError(f"rows do not add up: {counts}, {len(self._rows)} live")
        lanes = {row.key: row for rows in self._lanes.values() for row in rows.values()}
        if sum(len(rows) for rows in self._lanes.values()) != len(self._rows) or lanes != self._rows:
            raise ProtocolError("a row is in no lane, or in two")
        if any(row.key not in self._lanes[row.lane] for row in self._rows.values()):
            raise ProtocolError("a row is in a lane that is not its own")
        if any(not row.segments or row.steps_done >= row.segments[0].steps for row in self._rows.values()):
            raise ProtocolError("a row without steps is still here")
        active = {row.key for row in self._rows.values() if row.state is State.ACTIVE}
        if active != set(self._batch) or len(active) != len(self._batch):
            raise ProtocolError("the active rows are not the batch")
        if any((row.state is State.ACTIVE) != (row.waiting_since is None) for row in self._rows.values()):
            raise ProtocolError("a row both waits and runs")

    def _by_right(self) -> list[QueuedRow]:
        """The batch that is due without the guaranteed share: by strict order, the first row's group, lane by lane."""
        if self.ordering is not None:
            return self._by_ordering(self.ordering)
        leader = next(self._in_order(), None)
        return [] if leader is None else self._led_by(leader)

    def _by_ordering(self, ordering: Ordering) -> list[QueuedRow]:
        running = tuple(self._rows[key] for key in self._batch)
        return list(ordering(Candidates(tuple(self._rows.values()), running, self.policy.rows_max)))

    def _led_by(self, leader: QueuedRow) -> list[QueuedRow]:
        """The batch of the leader's group: its lane first, then the others in their order."""
        limit = self._limit(leader.group)
        batch: list[QueuedRow] = []
        for row in self._in_order(first=leader.lane):
            if len(batch) >= limit:
                break
            if row.group == leader.group and self._affordable(row, batch):
                batch.append(row)
        return batch

    def _affordable(self, row: QueuedRow, batch: Sequence[QueuedRow]) -> bool:
        """Whether a row of a lower lane may join a batch led by an urgent one."""
        if not batch or batch[0].lane is not Lane.URGENT or row.lane is Lane.URGENT:
            return True
        urgent = sum(other.lane is Lane.URGENT for other in batch)
        without = self._step_seconds(row.group, urgent)
        together = self._step_seconds(row.group, len(batch) + 1)
        return without is None or together is None or together <= without * self.policy.urgent_slowdown_max

    def _overdue(self, now: float) -> Iterator[QueuedRow]:
        for lane, rows in self._lanes.items():
            head = next(iter(rows.values()), None)
            if head is not None and head.wait(now) > self.policy.bounds_s[lane]:
                yield head

    def _left(self, lane: Lane, owed: float, batch: Sequence[QueuedRow], first_leads: bool) -> float:
        """What is still owed to the lane after the step; at most one step where it could not have used more.

        Without that limit, a row whose part of a large batch is below `share` would save up without end,
        and take step after step from the urgent ones once its group is another.
        """
        left = max(0.0, owed - self._received(lane, batch, first_leads))
        return 1.0 if left > 1 and self._all_in(lane, batch) else left

    def _all_in(self, lane: Lane, batch: Sequence[QueuedRow]) -> bool:
        """Whether the lane has its head in the batch, and every other row that fits it."""
        rows = self._lanes[lane].values()
        return next(iter(rows)) in batch and all(row in batch for row in rows if row.group == batch[0].group)

    def _received(self, lane: Lane, batch: Sequence[QueuedRow], first_leads: bool) -> float:
        """How much of the step the lane gets: all of one that its head leads, else its rows' part.

        A step without the head counts for nothing: later rows of another group would starve it.
        """
        head = next(iter(self._lanes[lane].values()), None)
        if head not in batch:
            return 0.0
        return 1.0 if first_leads and batch[0] is head else sum(row.lane is lane for row in batch) / len(batch)

    def _with_guarantee(self, batch: list[QueuedRow], owed: dict[Lane, float]) -> list[QueuedRow]:
        """`batch`, amended for the lanes that are owed enough; whoever is owed most goes first.

        A row of the batch's own group costs its part of the step; a head of another group
        has to save up for a whole step, which it then leads.
        """
        heads = [next(iter(self._lanes[lane].values())) for lane in sorted(owed, key=lambda o: -owed[o])]
        if heads and heads[0].group != batch[0].group and owed[heads[0].lane] + _ROUNDING >= 1:
            return self._led_by(heads[0])
        limit = self._limit(batch[0].group)
        paid = self._paid(batch, heads, owed, limit)
        others = [row for row in batch if row not in paid][: limit - len(paid)]
        stay = [row for row in batch if row in paid or row in others]
        return stay + [row for row in paid if row not in batch]

    def _paid(
        self, batch: list[QueuedRow], heads: list[QueuedRow], owed: dict[Lane, float], limit: int
    ) -> list[QueuedRow]:
        """The rows that what is owed pays for, each lane's first ones; no other row takes their places.

        Rows that are due by right are among them, or those that another lane pays for would push them out.
        """
        paid: list[QueuedRow] = []
        size = len(batch)
        for head in heads:
            peers = (row for row in self._lanes[head.lane].values() if row.group == batch[0].group == head.group)
            for count, row in enumerate(peers, start=1):
                size_with = size + (row not in batch)
                if len(paid) == limit or count > owed[head.lane] * min(limit, size_with) + _ROUNDING:
                    break
                paid.append(row)
                size = size_with
        return paid

    def _in_order(self, first: Lane = Lane.URGENT) -> Iterator[QueuedRow]:
        for lane in sorted(Lane, key=lambda lane: (lane is not first, lane)):
            yield from self._lanes[lane].values()

    def _seat(self, chosen: list[QueuedRow], now: float) -> None:
        seated = {row.key for row in chosen}
        for key in self._batch:
            if key not in seated:
                row = self._rows[key]
                row.state, row.waiting_since = State.PARKED, now
                self.counts.preemptions += 1
        for row in chosen:
            if row.waiting_since is not None:
                row.waited += now - row.waiting_since
            row.state, row.waiting_since = State.ACTIVE, None
        self._batch = tuple(row.key for row in chosen)

    def _delete(self, row: QueuedRow) -> None:
        del self._rows[row.key]
        del self._lanes[row.lane][row.key]


# Ten times 0.1 is less than 1 in binary.
_ROUNDING = 1e-9
