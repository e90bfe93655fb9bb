"""For how many rows the step scheduler has a use, alone and together with the queue of jobs that wait for it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.test_schedule import HIGH, NORMAL, URGENT
from tests.intake.test_start_queue import NOW, job
from worker.engine.cost import Group, Stage
from worker.engine.schedule.room import START_AHEAD_S
from worker.engine.schedule.rows import Segment
from worker.engine.schedule.scheduler import StepScheduler
from worker.intake.start_queue import StartQueue
from worker.job import Job, Lane, Origin

SLOTS = 4
SQUARE, WIDE = Group(Stage.BASE, 8, 8, samples=2 * SLOTS), Group(Stage.BASE, 8, 16, samples=2 * SLOTS)
STEP_S = 0.2
AHEAD = int(START_AHEAD_S / STEP_S)


def scheduler() -> StepScheduler:
    made = StepScheduler()
    for group in (SQUARE, WIDE):
        made.cost.observe(group, SLOTS, STEP_S)
    return made


def submit(s: StepScheduler, *keys: str, lane: Lane = NORMAL, group: Group = SQUARE, steps: int = 9) -> None:
    for key in keys:
        s.submit(key, lane, [Segment(group, steps)], 0.0)


def test_an_idle_engine_has_room_for_one_whose_group_tells_how_many_fit() -> None:
    s = scheduler()
    assert s.room() == (1, 1, 1)
    submit(s, "n", steps=9)
    s.choose(0.0)
    assert s.room() == (4, 4, 4)


def test_where_one_row_fills_a_call_nobody_else_is_started_before_it_ends_soon() -> None:
    s = scheduler()
    submit(s, "n", group=Group(Stage.BASE, 128, 128, samples=2), steps=2)
    batch = s.choose(0.0)
    assert s.room() == (1, 1, 1)
    s.advance(batch)
    assert s.room() == (1, 1, 2)


def test_a_full_step_is_enough() -> None:
    s = scheduler()
    submit(s, "u1", "u2", lane=URGENT)
    submit(s, "n1", "n2", "n3", lane=NORMAL)
    s.choose(0.0)
    assert s.room() == (4, 4, 4)


def test_those_that_end_soon_are_to_be_followed() -> None:
    s = scheduler()
    submit(s, "u", lane=URGENT, steps=AHEAD + 1)
    submit(s, "h", lane=HIGH, steps=AHEAD)
    submit(s, "n", lane=NORMAL)
    s.choose(0.0)
    assert s.room() == (4, 5, 5)


def test_without_a_known_cost_the_last_step_is_soon() -> None:
    s = StepScheduler()
    submit(s, "a", steps=1)
    submit(s, "b", steps=2)
    s.choose(0.0)
    assert s.room() == (4, 4, 5)


def test_a_row_that_has_the_refiner_to_come_does_not_end() -> None:
    s = scheduler()
    s.submit("r", NORMAL, [Segment(SQUARE, 1), Segment(WIDE, 1)], 0.0)
    s.choose(0.0)
    assert s.room() == (4, 4, 4)


def test_rows_of_another_shape_do_not_fill_the_step() -> None:
    s = scheduler()
    submit(s, "u", lane=URGENT)
    submit(s, "w1", "w2", "w3", lane=HIGH, group=WIDE)
    s.choose(0.0)
    # Urgent: one runs, three more can. High: three of another shape wait, and three more may run beside the urgent one.
    assert s.room() == (4, 7, 7)


def test_rows_of_another_shape_are_not_joined_by_others_where_the_step_is_full() -> None:
    s = scheduler()
    submit(s, "u1", "u2", "u3", "u4", lane=URGENT)
    submit(s, "w1", "w2", lane=HIGH, group=WIDE)
    s.choose(0.0)
    assert s.room() == (4, 4, 4)


@settings(max_examples=100, deadline=None)
@given(
    plan=st.lists(st.tuples(st.sampled_from(Lane), st.integers(1, 12)), min_size=10, max_size=30),
    delay=st.integers(0, AHEAD - 1),
)
def test_no_slot_is_free_while_jobs_wait_and_few_are_started(plan: list[tuple[Lane, int]], delay: int) -> None:
    """Starts become durable `delay` steps after they were asked for, which is less than is planned ahead."""
    s, queue, now, step = scheduler(), StartQueue((1.0, 2.0, 5.0)), NOW, 0
    jobs = {job(n, lane).origin: (job(n, lane), steps) for n, (lane, steps) in enumerate(plan)}
    recording: list[tuple[int, Job]] = []
    for one, _ in jobs.values():
        queue.add(one, alone=False)
    left, begun, asked = len(plan), set[object](), list[Origin]()
    while left:
        queue.room = s.room()
        ready = queue.next(now)
        asked += [one.origin for one in ready]
        recording += [(step + delay, one) for one in ready]
        for _, one in [entry for entry in recording if entry[0] <= step]:
            s.submit(one.origin, one.lane, [Segment(SQUARE, jobs[one.origin][1])], now)
        recording = [entry for entry in recording if entry[0] > step]
        batch = s.choose(now)
        # The first job tells its group, and those beside it are asked for then.
        if step > 2 * delay + 1 and all(steps > 2 * delay + 1 for _, steps in plan):
            assert len(batch) == min(SLOTS, left)
        begun.update(batch)
        # One for each row that ends soon, and the first of a lane that has waited too long.
        assert sum(origin not in begun for origin in asked) <= SLOTS + 2
        if batch:
            for origin in s.advance(batch):
                queue.leave(origin)  # type: ignore[arg-type]
                left -= 1
        now, step = now + STEP_S, step + 1
    assert not queue.waiting()
