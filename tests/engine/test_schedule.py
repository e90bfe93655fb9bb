"""The step scheduler against a simple model of its policy, and the cases for which the policy was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from worker.engine.cost import CostModel, Group, Stage
from worker.engine.schedule.policy import Policy
from worker.engine.schedule.rows import Segment, State
from worker.engine.schedule.scheduler import StepScheduler
from worker.errors import ProtocolError
from worker.job import Lane

SQUARE, WIDE, REFINER = Group(Stage.BASE, 8, 8), Group(Stage.BASE, 8, 16), Group(Stage.REFINER, 8, 8)
GROUPS = (SQUARE, WIDE, REFINER)
URGENT, HIGH, NORMAL = Lane
EPSILON = 1e-6

# Seconds per step by number of rows, as the tests' GPU has them.
COSTS: dict[str, Callable[[int], float] | None] = {
    "unknown": None,
    "free": lambda _rows: 1.0,  # padded, or far from full
    "half": lambda rows: 0.5 + 0.5 * rows,
    "proportional": lambda rows: 1.0 * rows,
}


def cost_model(seconds: Callable[[int], float] | None, sizes: Sequence[int] = range(1, 9)) -> CostModel:
    cost = CostModel()
    for group in GROUPS:
        for rows in sizes if seconds is not None else ():
            assert seconds is not None
            cost.observe(group, rows, *[seconds(rows)] * 4)
    return cost


@dataclass
class ModelRow:
    key: int
    lane: Lane
    plan: list[Group]  # the group of every step
    since: float
    waited: float = 0.0
    active: bool = False
    steps: list[Group] = field(default_factory=list)

    @property
    def group(self) -> Group:
        return self.plan[len(self.steps)]

    def wait(self, now: float) -> float:
        # Rounded as the scheduler rounds it: at the bound itself the last bit decides who is overdue.
        return self.waited if self.active else self.waited + (now - self.since)


class Scheduling(RuleBasedStateMachine):
    """Everything that may happen to a scheduler, in any order."""

    @initialize(
        slots=st.integers(1, 5), share=st.sampled_from([0.0, 0.1, 0.25, 0.3]), cost=st.sampled_from(sorted(COSTS))
    )
    def start(self, slots: int, share: float, cost: str) -> None:
        self.policy = Policy(rows_max=slots, share=share, bounds_s=(0.5, 1.0, 2.0))
        self.seconds = COSTS[cost]
        self.scheduler = StepScheduler(self.policy, cost_model(self.seconds))
        self.slots, self.now = slots, 0.0
        self.rows: dict[int, ModelRow] = {}  # in order of arrival
        self.submitted = self.finished = self.removed = 0
        # The largest debt, and the largest overpayment, of any window of steps that ends here.
        self.debt = dict.fromkeys(Lane, 0.0)
        self.taken = dict.fromkeys(Lane, 0.0)
        self.calls: list[tuple[str, tuple[Any, ...], Any]] = []

    def call(self, name: str, *args: Any) -> Any:
        result = getattr(self.scheduler, name)(*args)
        self.calls.append((name, args, result))
        return result

    @rule(
        lanes=st.lists(st.sampled_from(Lane), min_size=1, max_size=6),
        plan=st.lists(st.builds(Segment, st.sampled_from(GROUPS), st.integers(1, 8)), min_size=1, max_size=2),
    )
    def submit(self, lanes: list[Lane], plan: list[Segment]) -> None:
        for lane in lanes:
            key = self.submitted
            self.call("submit", key, lane, list(plan), self.now)
            groups = [segment.group for segment in plan for _ in range(segment.steps)]
            self.rows[key] = ModelRow(key, lane, groups, since=self.now)
            self.submitted += 1

    @rule(long=st.sampled_from([20, 80]), lane=st.sampled_from(Lane), group=st.sampled_from(GROUPS))
    def submit_long(self, long: int, lane: Lane, group: Group) -> None:
        self.submit([lane], [Segment(group, long)])

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(list(self.rows)))
        self.call("remove", key)
        del self.rows[key]
        self.removed += 1

    @rule()
    def remove_what_is_not_there(self) -> None:
        self.call("remove", -1)

    @rule(slots=st.integers(1, 5))
    def resize(self, slots: int) -> None:
        self.call("resize", slots)
        self.slots = slots

    @rule()
    def step_that_fails(self) -> None:
        self.choose()

    @rule(times=st.integers(1, 40), seconds=st.sampled_from([0.05, 0.5]))
    def steps(self, times: int, seconds: float) -> None:
        for _ in range(times):
            self.step()
            self.now += seconds

    def step(self) -> None:
        overdue = [lane for lane in Lane if self.is_overdue(lane)]
        by_right = self.by_right()
        batch = self.choose()
        if not batch:
            assert not self.rows
            return
        self.check_share(batch, by_right, overdue)
        for row in batch:
            row.steps.append(row.group)
        done = [row for row in batch if len(row.steps) == len(row.plan)]
        assert self.call("advance", tuple(row.key for row in batch)) == tuple(row.key for row in done)
        for row in done:
            assert row.steps == row.plan
            del self.rows[row.key]
        self.finished += len(done)

    def choose(self) -> list[ModelRow]:
        by_right = self.by_right()
        overdue = [lane for lane in Lane if self.is_overdue(lane)]
        batch = [self.rows[key] for key in self.call("choose", self.now)]
        assert len(batch) == len({row.key for row in batch}) <= self.slots
        assert len({row.group for row in batch}) <= 1
        assert bool(batch) == bool(self.rows)
        if batch and batch[0].group != by_right[0].group:
            # A step that the share pays for whole.
            assert batch[0] is self.head(batch[0].lane)
            assert batch[0].lane in overdue
            assert batch[0] not in by_right
            assert batch == self.led_by(batch[0])
        else:
            stay = [row for row in by_right if row in batch]
            assert batch[: len(stay)] == stay
            assert len(stay) == len(by_right) or len(batch) == self.limit()
            for lane in {row.lane for row in self.paid(batch, by_right)}:
                of_lane = [row for row in batch if row.lane is lane]
                assert lane in overdue
                assert of_lane == self.peers(lane, batch)[: len(of_lane)]
                assert of_lane[0] is self.head(lane)
        if batch == by_right:
            self.check_urgent(batch)
        for row in self.rows.values():
            if row in batch and not row.active:
                row.waited += self.now - row.since
            if row not in batch and row.active:
                row.since = self.now
            row.active = row in batch
        return batch

    def check_urgent(self, batch: list[ModelRow]) -> None:
        """No urgent row is left out but for earlier urgent ones: of another group, or in every slot."""
        urgent = [row for row in self.rows.values() if row.lane is URGENT]
        peers = [row for row in urgent if row.group == urgent[0].group]
        for row in peers[: self.limit()]:
            assert row in batch

    def check_share(self, batch: list[ModelRow], by_right: list[ModelRow], overdue: list[Lane]) -> None:
        for lane in Lane:
            if lane not in overdue:
                self.debt[lane] = self.taken[lane] = 0.0
                continue
            head, part = self.head(lane), sum(row.lane is lane for row in batch) / len(batch)
            leads = batch[0] is head and (head is by_right[0] or head.group != by_right[0].group)
            got = 0.0 if head not in batch else 1.0 if leads else part
            self.debt[lane] = max(0.0, self.debt[lane]) + self.policy.share - got
            if head in batch and all(row in batch for row in self.peers(lane, batch)):
                self.debt[lane] = min(1.0, self.debt[lane])  # it has no use for more
            # Where two classes have saved up a step each, one goes first.
            assert self.debt[lane] <= 1 + (self.policy.share if len(overdue) > 1 else 0) + EPSILON
            if batch[0].group != by_right[0].group:
                paid = 1.0 if batch[0].lane is lane else 0.0
            else:
                paid = sum(row.lane is lane for row in self.paid(batch, by_right)) / len(batch)
            self.taken[lane] = max(0.0, self.taken[lane]) + paid - self.policy.share
            assert self.taken[lane] <= 1 + self.policy.share + EPSILON

    def paid(self, batch: list[ModelRow], by_right: list[ModelRow]) -> list[ModelRow]:
        """The rows that are in the batch of `by_right`'s group although a row before them is not."""
        untouched = next((n for n, row in enumerate(by_right) if row not in batch), len(by_right))
        return [row for row in batch if row not in by_right[:untouched]]

    def peers(self, lane: Lane, batch: list[ModelRow]) -> list[ModelRow]:
        return [row for row in self.rows.values() if row.lane is lane and row.group == batch[0].group]

    def head(self, lane: Lane) -> ModelRow | None:
        return next((row for row in self.rows.values() if row.lane is lane), None)

    def is_overdue(self, lane: Lane) -> bool:
        head = self.head(lane)
        return head is not None and head.wait(self.now) > self.policy.bounds_s[lane]

    def limit(self) -> int:
        return 1 if self.seconds is COSTS["proportional"] else self.slots

    def by_right(self) -> list[ModelRow]:
        first = next((self.head(lane) for lane in Lane if self.head(lane)), None)
        return [] if first is None else self.led_by(first)

    def led_by(self, leader: ModelRow) -> list[ModelRow]:
        order = sorted(self.rows.values(), key=lambda row: (row.lane is not leader.lane, row.lane, row.key))
        batch: list[ModelRow] = []
        for row in order:
            if row.group == leader.group and len(batch) < self.limit() and self.may_join(row, batch):
                batch.append(row)
        return batch

    def may_join(self, row: ModelRow, batch: list[ModelRow]) -> bool:
        if self.seconds is None or not batch or batch[0].lane is not URGENT or row.lane is URGENT:
            return True
        urgent = sum(other.lane is URGENT for other in batch)
        return self.seconds(len(batch) + 1) <= 1.25 * self.seconds(urgent)

    @invariant()
    def every_row_is_in_one_state(self) -> None:
        self.scheduler.check_invariants()
        assert len(self.scheduler) == len(self.rows)
        for row in self.rows.values():
            started = bool(row.steps)
            state = self.scheduler.state(row.key)
            assert row.key in self.scheduler
            assert (state is State.ACTIVE) == row.active
            assert state is not State.WAITING or not started
            assert self.scheduler.group(row.key) == row.group
        assert sum(self.scheduler.depth().values()) == len(self.rows)

    @invariant()
    def rows_add_up(self) -> None:
        counts = self.scheduler.counts
        assert (counts.submitted, counts.finished, counts.removed) == (
            self.submitted, self.finished, self.removed,
        )  # fmt: skip
        assert self.submitted == len(self.rows) + self.finished + self.removed

    def teardown(self) -> None:
        if not hasattr(self, "policy"):
            return
        again = StepScheduler(self.policy, cost_model(self.seconds))
        for name, args, result in self.calls:
            assert getattr(again, name)(*args) == result
        self.every_row_is_in_one_state()


TestScheduling = pytest.mark.slow(Scheduling.TestCase)
TestScheduling.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)


def scheduler(slots: int = 4, share: float = 0.1, cost: str = "unknown") -> StepScheduler:
    return StepScheduler(Policy(rows_max=slots, share=share), cost_model(COSTS[cost]))


def submit(
    s: StepScheduler, *keys: str, lane: Lane, steps: int = 1000, group: Group = SQUARE, now: float = 0.0
) -> None:
    for key in keys:
        s.submit(key, lane, [Segment(group, steps)], now)


def run(s: StepScheduler, steps: int, now: float = 0.0) -> list[tuple[Any, ...]]:
    """Run steps of no duration, so that nobody's wait grows."""
    batches = []
    for _ in range(steps):
        batches.append(s.choose(now))
        s.advance(batches[-1])
    return batches


def led(batches: Sequence[Sequence[Any]], key: str) -> int:
    return sum(batch[0] == key for batch in batches)


def times(batches: Sequence[Sequence[Any]], key: str) -> int:
    return sum(key in batch for batch in batches)


def test_nothing_to_do_gives_an_empty_batch() -> None:
    assert scheduler().choose(0.0) == ()


def test_an_urgent_row_is_in_the_next_batch_of_a_full_scheduler() -> None:
    s = scheduler()
    submit(s, "n1", "n2", "n3", "n4", lane=NORMAL)
    run(s, 3)
    submit(s, "u", lane=URGENT)
    assert s.choose(0.0) == ("u", "n1", "n2", "n3")
    assert s.state("n4") is State.PARKED
    assert s.counts.preemptions == 1


def test_a_preempted_row_comes_back_before_those_that_came_after_it() -> None:
    s = scheduler(slots=1)
    submit(s, "n1", "n2", lane=NORMAL)
    run(s, 1)
    submit(s, "u", lane=URGENT, steps=2)
    assert run(s, 3) == [("u",), ("u",), ("n1",)]


def test_a_refined_picture_goes_through_its_segments_in_turn() -> None:
    s = scheduler()
    s.submit("a", NORMAL, [Segment(SQUARE, 2), Segment(REFINER, 1)], 0.0)
    seen = []
    while len(s):
        batch = s.choose(0.0)
        seen.append(s.group(batch[0]))
        s.advance(batch)
    assert seen == [SQUARE, SQUARE, REFINER]


def test_urgent_rows_of_another_shape_wait_for_earlier_urgent_ones() -> None:
    s = scheduler(share=0)
    submit(s, "u1", lane=URGENT, steps=2)
    submit(s, "u2", lane=URGENT, steps=2, group=WIDE)
    submit(s, "u3", lane=URGENT, steps=2)
    assert run(s, 3) == [("u1", "u3"), ("u1", "u3"), ("u2",)]


def test_an_overdue_class_gets_its_share_of_the_rows_of_an_endless_urgent_load() -> None:
    s = scheduler()
    submit(s, "u1", "u2", "u3", "u4", lane=URGENT)
    submit(s, "n", lane=NORMAL)
    assert times(run(s, 100, now=4.9), "n") == 0
    assert times(run(s, 100, now=5.1), "n") == 40  # one row of four in 10 % of the steps' room


def test_an_overdue_head_of_another_shape_leads_its_share_of_the_steps() -> None:
    s = scheduler()
    submit(s, "u1", "u2", lane=URGENT)
    submit(s, "n", lane=NORMAL, group=WIDE)
    assert led(run(s, 100, now=6.0), "n") == 10


def test_the_step_an_overdue_head_leads_has_room_for_it_whoever_else_has_its_shape() -> None:
    s = scheduler()
    submit(s, "u1", lane=URGENT)
    submit(s, "w1", "w2", "w3", "w4", lane=URGENT, group=WIDE)
    submit(s, "n", lane=NORMAL, group=WIDE)
    batches = run(s, 100, now=6.0)
    assert led(batches, "n") == 10
    assert all(batch == ("n", "w1", "w2", "w3") for batch in batches if "n" in batch)


def test_company_of_its_class_does_not_starve_a_head_of_another_shape() -> None:
    s = scheduler()
    submit(s, "u", lane=URGENT)
    submit(s, "n1", lane=NORMAL, group=WIDE)
    submit(s, "n2", lane=NORMAL)
    batches = run(s, 100, now=6.0)
    assert led(batches, "n1") == 10
    assert times(batches, "n2") == 90


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("high", [SQUARE, WIDE])
@pytest.mark.parametrize("normal", [SQUARE, WIDE, REFINER])
def test_two_overdue_classes_both_get_their_share(slots: int, high: Group, normal: Group) -> None:
    s = scheduler(slots=slots)
    submit(s, "u1", "u2", "u3", "u4", lane=URGENT)
    submit(s, "h", lane=HIGH, group=high)
    submit(s, "n", lane=NORMAL, group=normal)
    batches = run(s, 200, now=6.0)
    for key in "hn":
        got = sum(1.0 if b[0] == key else 1 / len(b) for b in batches if key in b)
        assert got >= 200 * 0.1 - 1
    assert led(batches, "u1") >= 160


def test_a_row_that_pays_does_not_take_the_place_of_one_that_is_owed_as_much() -> None:
    s = scheduler(share=0.25)
    submit(s, "u1", "u2", "u3", lane=URGENT)
    submit(s, "h", lane=HIGH)
    submit(s, "n", lane=NORMAL)
    assert run(s, 100, now=6.0) == [("u1", "u2", "h", "n")] * 100


def test_what_hypothesis_found_the_high_row_is_not_kept_out_by_the_normal_one() -> None:
    found = Scheduling()
    found.start(slots=4, share=0.25, cost="free")
    found.submit([URGENT, URGENT], [Segment(SQUARE, 6)])
    found.submit_long(20, URGENT, SQUARE)
    found.submit([URGENT, URGENT, HIGH, NORMAL], [Segment(SQUARE, 1), Segment(SQUARE, 7)])
    found.steps(3, 0.5)
    high = found.rows[5]
    found.steps(11, 0.5)
    # Overdue from here on, and a row of four is its share: it is in every step until it is done.
    assert high.steps == high.plan
    assert high.waited == 1.5
    found.teardown()


def test_a_class_that_gets_less_than_its_share_by_right_pays_for_more_rows() -> None:
    s = scheduler(slots=5, share=0.3)
    submit(s, "u1", "u2", "u3", "u4", lane=URGENT)
    submit(s, "n1", "n2", "n3", lane=NORMAL)
    batches = run(s, 100, now=6.0)
    assert sum(times(batches, key) for key in ("n1", "n2", "n3")) / 5 >= 100 * 0.3 - 1
    assert times(batches, "u1") == 100


def test_a_row_that_is_in_every_step_saves_up_no_more_than_one() -> None:
    s = scheduler(slots=16)
    submit(s, *(f"u{n}" for n in range(15)), lane=URGENT)
    s.submit("n", NORMAL, [Segment(SQUARE, 200), Segment(WIDE, 1000)], 0.0)
    assert times(run(s, 200, now=6.0), "n") == 200
    assert led(run(s, 100, now=6.0), "n") == 11


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_two_shares_are_kept_of_steps_too_large_for_one_row_to_fill_its_own(share: float) -> None:
    s = scheduler(slots=16, share=share)
    submit(s, *(f"u{n}" for n in range(20)), lane=URGENT)
    submit(s, "h", lane=HIGH)
    submit(s, "n", lane=NORMAL, group=WIDE)
    batches = run(s, 200, now=6.0)
    assert led(batches, "n") >= 200 * share - 1 - share
    assert times(batches, "h") == 200 - led(batches, "n")


def test_a_share_of_nothing_is_strict_order() -> None:
    s = scheduler(slots=1, share=0)
    submit(s, "u", lane=URGENT)
    submit(s, "n", lane=NORMAL)
    assert times(run(s, 200, now=1000.0), "n") == 0


def test_a_class_that_came_by_its_share_anyway_has_nothing_saved() -> None:
    s = scheduler()
    submit(s, "n", "m", lane=NORMAL)
    run(s, 1)
    submit(s, "n5", lane=NORMAL)
    run(s, 500, now=60.0)
    submit(s, "u1", "u2", "u3", "u4", lane=URGENT, now=60.0)
    batches = run(s, 2, now=60.0)
    assert batches == [("u1", "u2", "u3", "u4")] * 2


def test_a_step_that_fails_does_not_use_up_the_share() -> None:
    s = scheduler(slots=1)
    submit(s, "u", lane=URGENT)
    submit(s, "n", lane=NORMAL)
    assert times(run(s, 9, now=6.0), "n") == 0
    for _ in range(5):
        assert s.choose(6.0) == ("n",)
    assert times(run(s, 10, now=6.0), "n") == 1


@pytest.mark.parametrize(
    ("cost", "batch"),
    [
        ("proportional", ("u1",)),
        ("half", ("u1",)),
        ("free", ("u1", "n1", "n2", "n3")),
        ("unknown", ("u1", "n1", "n2", "n3")),
    ],
)
def test_lower_classes_join_an_urgent_row_only_where_they_hardly_slow_it(cost: str, batch: tuple[str, ...]) -> None:
    s = scheduler(cost=cost)
    submit(s, "n1", "n2", "n3", "n4", lane=NORMAL)
    run(s, 1)
    submit(s, "u1", lane=URGENT)
    assert s.choose(0.0) == batch


def test_the_slowdown_is_measured_against_the_urgent_rows_that_run_anyway() -> None:
    s = scheduler(cost="half")
    submit(s, "u1", "u2", "u3", lane=URGENT)
    submit(s, "n1", lane=NORMAL)
    assert s.choose(0.0) == ("u1", "u2", "u3", "n1")  # 2.5 s instead of 2 s


def test_padding_makes_company_free() -> None:
    s, padded = StepScheduler(), replace(SQUARE, samples=8)
    submit(s, "n1", "n2", lane=NORMAL, group=padded)
    s.observe(s.choose(0.0), 1.0)
    submit(s, "u", lane=URGENT, group=padded)
    assert s.choose(0.0) == ("u", "n1", "n2")


@pytest.mark.parametrize(("guided", "samples", "rows"), [(True, 2, 1), (True, 8, 4), (False, 1, 1), (False, 8, 8)])
def test_rows_beyond_the_size_of_a_call_take_turns(guided: bool, samples: int, rows: int) -> None:
    s, group = StepScheduler(), replace(SQUARE, guided=guided, samples=samples)
    keys = [f"n{number}" for number in range(rows + 2)]
    submit(s, *keys, lane=NORMAL, steps=2, group=group)
    first, second, third = run(s, 3)
    assert first == second == tuple(keys[:rows])
    assert third == tuple(keys[rows : 2 * rows])[:2]


def test_guided_rows_and_others_never_share_a_call() -> None:
    s = StepScheduler()
    submit(s, "g1", "g2", lane=NORMAL, group=replace(SQUARE, samples=8), steps=1)
    submit(s, "u1", "u2", lane=NORMAL, group=replace(SQUARE, samples=4, guided=False), steps=1)
    assert run(s, 2) == [("g1", "g2"), ("u1", "u2")]


def test_a_padded_step_costs_the_same_at_any_number_of_rows() -> None:
    s, padded = StepScheduler(), replace(SQUARE, samples=8)
    submit(s, "a", lane=NORMAL, group=padded)
    for _ in range(3):
        s.observe(s.choose(0.0), 1.0)
    submit(s, "b", lane=NORMAL, group=padded)
    s.observe(s.choose(0.0), 0.9)
    assert s.shortest(URGENT, [Segment(padded, 10)]) == pytest.approx(9.0)


def test_a_smaller_call_is_measured_apart() -> None:
    s, padded = StepScheduler(), replace(SQUARE, samples=8)
    submit(s, "a", "b", "c", lane=NORMAL, group=padded)
    for _ in range(4):
        s.observe(s.choose(0.0), 4.0)
    s.resize(2)
    assert s.choose(0.0) == ("a", "b")
    assert (padded.padded(2), padded.padded(64)) == (4, 8)
    assert s.shortest(URGENT, [Segment(padded, 1)]) == pytest.approx(2.0)  # in proportion
    for _ in range(4):
        s.observe(("a", "b"), 3.0)
    assert s.shortest(URGENT, [Segment(padded, 1)]) == pytest.approx(3.0)
    s.resize(64)
    assert s.shortest(URGENT, [Segment(padded, 1)]) == pytest.approx(4.0)


def test_a_sparsely_measured_gpu_lets_cheap_company_join() -> None:
    s = StepScheduler(Policy(rows_max=4), cost_model(lambda rows: 1 + 0.02 * rows, sizes=[1, 4]))
    submit(s, "n1", "n2", "n3", lane=NORMAL)
    submit(s, "u", lane=URGENT)
    assert s.choose(0.0) == ("u", "n1", "n2", "n3")


def test_an_overdue_row_kept_out_of_urgent_company_still_gets_its_share() -> None:
    s = scheduler(cost="half")
    submit(s, "u", lane=URGENT)
    submit(s, "n", lane=NORMAL)
    batches = run(s, 100, now=6.0)
    assert times(batches, "u") == 100
    assert times(batches, "n") == 20  # half a step each


def test_a_newcomer_is_one_whose_first_step_is_next() -> None:
    s = scheduler(slots=1)
    assert not s.newcomer_above(NORMAL)
    submit(s, "u1", lane=URGENT, steps=2)
    assert s.newcomer_above(NORMAL)
    assert s.newcomer_above(HIGH)
    assert not s.newcomer_above(URGENT)
    run(s, 1)
    assert not s.newcomer_above(NORMAL)


def test_urgent_rows_that_cannot_start_yet_do_not_hold_up_decoding() -> None:
    s = scheduler(slots=1, share=0)
    submit(s, "u1", lane=URGENT)
    run(s, 1)
    submit(s, "u2", lane=URGENT)
    submit(s, "u3", lane=URGENT, group=WIDE)
    assert not s.newcomer_above(NORMAL)
    s.remove("u1")
    assert s.newcomer_above(NORMAL)


def test_a_newcomer_is_found_behind_rows_of_its_class_that_run() -> None:
    s = scheduler(slots=2)
    submit(s, "u1", "u2", lane=URGENT, steps=2)
    run(s, 1)
    submit(s, "u3", lane=URGENT, steps=2)
    run(s, 1)
    assert s.newcomer_above(NORMAL)


def test_wrong_calls_are_refused() -> None:
    s = scheduler()
    submit(s, "a", lane=NORMAL, steps=5)
    with pytest.raises(ProtocolError, match="twice"):
        submit(s, "a", lane=URGENT)
    with pytest.raises(ProtocolError, match="without steps"):
        submit(s, "b", lane=URGENT, steps=0)
    with pytest.raises(ProtocolError, match="without steps"):
        s.submit("b", URGENT, [], 0.0)
    with pytest.raises(ProtocolError, match="does not match"):
        s.advance(())
    with pytest.raises(ProtocolError, match="does not match"):
        s.advance(("a",))
    s.choose(0.0)
    s.remove("a")
    with pytest.raises(ProtocolError, match="does not match"):
        s.advance(("a",))


def test_a_key_can_come_again_after_it_has_left() -> None:
    s = scheduler()
    submit(s, "a", lane=NORMAL, steps=1)
    run(s, 1)
    submit(s, "a", lane=NORMAL, steps=1)
    s.remove("a")
    submit(s, "a", lane=HIGH, steps=1)
    assert run(s, 1) == [("a",)]
    s.check_invariants()


def _lose_a_row(s: StepScheduler) -> None:
    del s.lanes.rows["n"]


def _count_a_row_twice(s: StepScheduler) -> None:
    s.counts.submitted += 1


def _take_it_off_its_lane(s: StepScheduler) -> None:
    del s.lanes.by_lane[NORMAL]["n"]


def _put_it_in_another_lane(s: StepScheduler) -> None:
    s.lanes.by_lane[HIGH]["n"] = s.lanes.by_lane[NORMAL].pop("n")


def _forget_who_runs(s: StepScheduler) -> None:
    s._batch = ()


def _run_a_row_twice(s: StepScheduler) -> None:
    s._batch *= 2


def _wait_and_run(s: StepScheduler) -> None:
    s.lanes.rows["u"].waiting_since = 1.0


def _park_without_waiting(s: StepScheduler) -> None:
    s.lanes.rows["n"].waiting_since = None


def _run_out_of_steps(s: StepScheduler) -> None:
    s.lanes.rows["u"].steps_done = 1000


@pytest.mark.parametrize(
    "damage",
    [
        _lose_a_row, _count_a_row_twice, _take_it_off_its_lane, _put_it_in_another_lane, _forget_who_runs,
        _run_a_row_twice, _wait_and_run, _park_without_waiting, _run_out_of_steps,
    ],
)  # fmt: skip
def test_the_check_finds_damage(damage: Callable[[StepScheduler], None]) -> None:
    s = scheduler(slots=1)
    submit(s, "u", lane=URGENT)
    submit(s, "n", lane=NORMAL)
    run(s, 1)
    s.check_invariants()
    damage(s)
    with pytest.raises(ProtocolError):
        s.check_invariants()


plans = st.lists(st.builds(Segment, st.sampled_from(GROUPS[:2]), st.integers(1, 12)), min_size=1, max_size=2)


@st.composite
def gpus(draw: st.DrawFn) -> list[float]:
    """Seconds of a step of 1, 2, … rows: more rows never cost less, nor does a row in larger company cost more."""
    seconds = [draw(st.floats(0.1, 2.0))]
    while len(seconds) < 5:
        seconds.append(draw(st.floats(seconds[-1], seconds[-1] * (len(seconds) + 1) / len(seconds))))
    return seconds


@settings(max_examples=300, deadline=None)
@given(
    gpu=gpus(),
    sizes=st.lists(st.integers(1, 5), unique=True),
    slots=st.integers(1, 5),
    share=st.sampled_from([0.0, 0.1, 0.3]),
    others=st.lists(st.tuples(st.sampled_from(Lane), plans), max_size=12),
    steps_before=st.integers(0, 20),
    lane=st.sampled_from(Lane),
    plan=plans,
)
def test_no_newcomer_is_done_before_its_shortest_time(
    gpu: list[float], sizes: list[int], slots: int, share: float, others: list[tuple[Lane, list[Segment]]],
    steps_before: int, lane: Lane, plan: list[Segment],
) -> None:  # fmt: skip
    s = StepScheduler(
        Policy(rows_max=slots, share=share, bounds_s=(0.5, 1.0, 3.0)),
        cost_model(lambda rows: gpu[rows - 1], sizes=sizes),
    )
    s.cost.observe_decode(plan[-1].group.height, plan[-1].group.width, *[0.7] * 4)
    for key, (other, its_plan) in enumerate(others):
        s.submit(key, other, its_plan, 0.0)
    now = 0.0

    def step() -> None:
        nonlocal now
        batch = s.choose(now)
        if batch:
            now += gpu[len(batch) - 1]
            s.advance(batch)

    for _ in range(steps_before):
        step()
    start, bound = now, s.shortest(lane, plan)
    s.submit("newcomer", lane, plan, now)
    while "newcomer" in s:
        step()
    assert bound <= now + 0.7 - start + EPSILON


def test_the_shortest_time_counts_the_queue_of_its_own_class() -> None:
    s = scheduler(slots=2, cost="free")
    assert s.shortest(NORMAL, [Segment(SQUARE, 10)]) == pytest.approx(10)
    submit(s, "n1", "n2", "n3", lane=NORMAL, steps=20)
    # Two of the three must be gone, at two rows a step.
    assert s.shortest(NORMAL, [Segment(SQUARE, 10)]) == pytest.approx(20 + 10)
    assert s.shortest(URGENT, [Segment(SQUARE, 10)]) == pytest.approx(10)
    assert s.shortest(NORMAL, [Segment(WIDE, 10)]) == pytest.approx(10)


def test_a_long_neighbour_with_a_slot_to_spare_does_not_make_a_newcomer_late() -> None:
    s = scheduler(cost="free")
    submit(s, "n1", lane=NORMAL, steps=10_000)
    assert s.shortest(NORMAL, [Segment(SQUARE, 10)]) == pytest.approx(10)
