"""Rows that need LoRA sets merged: sets are kept together in a lane, and nobody waits beyond its bound for that."""

from __future__ import annotations

import random

from worker.engine.cost import Group, Stage
from worker.engine.schedule.policy import Policy
from worker.engine.schedule.rows import QueuedRow, Segment
from worker.engine.schedule.scheduler import StepScheduler
from worker.job import Lane

GROUP = Group(Stage.BASE, 8, 8, samples=4)
BOUND_S = 5.0


def scheduler(merged: str | None = None) -> StepScheduler:
    made = StepScheduler(Policy(bounds_s=(BOUND_S, BOUND_S, BOUND_S)))
    made.lanes.merged = merged
    return made


def submit(
    made: StepScheduler, key: str, loras: str | None, *, lane: Lane = Lane.NORMAL, steps: int = 2, at: float = 0.0
) -> None:
    made.submit(key, lane, [Segment(GROUP, steps, loras)], at)


def test_rows_of_different_sets_never_share_a_step() -> None:
    made = scheduler()
    for key, loras in (("a", "A"), ("bare", None), ("b", "B"), ("a2", "A")):
        submit(made, key, loras)
    assert made.choose(0.0) == ("a", "a2")


def test_the_merged_set_goes_first_within_its_lane_alone() -> None:
    made = scheduler("B")
    submit(made, "bare", None, steps=1)
    submit(made, "a", "A")
    submit(made, "b", "B")
    submit(made, "urgent", "C", lane=Lane.URGENT, steps=1)
    order = []
    for _ in range(3):
        batch = made.choose(0.0)
        order.append(batch)
        made.advance(batch)
    assert order == [("urgent",), ("bare",), ("b",)], "what needs no set keeps its place"


def test_beyond_its_bound_the_first_that_came_goes_first() -> None:
    made = scheduler("B")
    submit(made, "a", "A")
    submit(made, "b", "B")
    assert made.choose(BOUND_S) == ("b",)
    assert made.choose(BOUND_S + 0.1) == ("a",)


def test_nobody_waits_for_ever_behind_a_popular_set() -> None:
    made, now = scheduler("B"), 0.0
    submit(made, "rare", "A")
    for number in range(200):
        submit(made, f"b{number}", "B", at=now)
        batch = made.choose(now)
        made.lanes.merged = made.loras(batch[0])
        if "rare" in batch:
            break
        made.advance(batch)
        now += 0.1
    assert now <= BOUND_S + 0.2


def choose(made: StepScheduler, now: float) -> tuple[object, ...]:
    def is_ready(row: QueuedRow) -> bool:
        return row.loras in (None, made.lanes.merged)

    return made.choose(now, is_ready)


def _held_up(made: StepScheduler) -> object:
    return made.held_up


def test_a_step_that_waits_for_a_set_goes_to_the_rest_of_the_lane() -> None:
    made = scheduler()
    submit(made, "a", "A")
    submit(made, "bare", None)
    submit(made, "high", "B", lane=Lane.HIGH, steps=1)
    assert choose(made, 0.0) == ()
    assert _held_up(made) == "high", "rows of lower lanes would only delay it"
    made.lanes.merged = "B"
    batch = choose(made, 0.0)
    assert batch == ("high",)
    assert _held_up(made) is None
    made.advance(batch)
    assert choose(made, 0.0) == ("bare",)
    assert _held_up(made) == "a"
    made.check_invariants()
    assert made.counts.preemptions == 0


def test_all_rows_end_whatever_is_merged_when() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        made, now, left = scheduler(), 0.0, 40
        merging: tuple[object, int] = (None, 0)
        while left or len(made):
            if left and rng.random() < 0.3:
                left -= 1
                submit(made, f"{left}", rng.choice(["A", "B", "C", None]), lane=rng.choice(list(Lane)), at=now)
            batch = choose(made, now)
            made.check_invariants()
            assert all(made.loras(key) in (None, made.lanes.merged) for key in batch)
            assert len({made.loras(key) for key in batch}) <= 1
            if made.held_up is not None:
                wanted = made.loras(made.held_up)
                done = merging[1] + 1 if merging[0] == wanted else 1
                merging, made.lanes.merged = (wanted, done), wanted if done == 3 else None
            if batch:
                made.advance(batch)
            now += 0.3
            assert now < 1_000, "nothing goes on"
