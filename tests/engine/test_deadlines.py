"""Which jobs the engine refuses because their deadline cannot be met, and what a clock that is set does to it."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest
import torch

from devtools.bench.jobs import call_sizes
from tests.engine.scenario import SLOTS, make_job, stage
from worker.engine.cost import Group, Stage
from worker.engine.loop import StepEngine
from worker.engine.pipeline import SdxlModel
from worker.engine.schedule.policy import Policy
from worker.engine.schedule.scheduler import StepScheduler
from worker.engine_interface import EngineHooks
from worker.errors import ErrorCode
from worker.job import Lane

# Of `make_job`, drawn in calls of SLOTS rows.
GROUP = Group(Stage.BASE, 8, 8, guided=False, samples=2 * SLOTS)


@pytest.fixture(scope="module")
def model(base: Any) -> SdxlModel:
    return SdxlModel(base)


def test_a_slow_first_step_refuses_nobody(model: SdxlModel) -> None:
    play = stage(model)
    play.scheduler.cost.observe(GROUP, SLOTS, 180.0)
    play.run(make_job("next", steps=5, expires_at=100.0))
    assert "next" in play.pictures


def test_a_stall_of_a_minute_refuses_nobody(model: SdxlModel) -> None:
    play = stage(model)
    play.scheduler.cost.observe(GROUP, SLOTS, 180.0, 0.1, 60.0, 0.1)
    play.run(make_job("next", steps=5, expires_at=1.0))
    assert "next" in play.pictures


def test_a_size_that_was_never_drawn_refuses_nobody(model: SdxlModel) -> None:
    play = stage(model)
    play.scheduler.cost.observe(GROUP, SLOTS, *[1.0] * 4)
    play.run(make_job("larger", height=128, steps=5, expires_at=1.0), make_job("same", steps=5, expires_at=1.0))
    assert list(play.pictures) == ["larger"]
    assert play.codes() == {"same": ErrorCode.EXPIRED}


def test_a_bound_that_only_refuses_gives_way_until_a_job_measures_it(model: SdxlModel) -> None:
    play = stage(model)
    # From a time when something else kept the machine busy; now it takes no time at all.
    play.scheduler.cost.observe(GROUP, SLOTS, *[1.0] * 4)
    for number in range(30):
        play.run(make_job(f"job-{number}", steps=5, expires_at=2.5))
    assert list(play.codes()) == [f"job-{number}" for number in range(14)]
    assert len(play.pictures) == 30 - 14


def test_a_deadline_that_has_passed_says_nothing_about_the_bound(model: SdxlModel) -> None:
    play = stage(model)
    play.scheduler.cost.observe(GROUP, SLOTS, *[1.0] * 4)
    for number in range(30):
        play.run(make_job(f"job-{number}", expires_at=-1.0))
    assert play.scheduler.cost.least_seconds(GROUP, SLOTS) == 1.0


@torch.inference_mode()
def test_a_clock_that_is_set_changes_neither_what_steps_take_nor_whose_turn_it_is(model: SdxlModel) -> None:
    clock = cycle([1e9, 1e9 + 7_200, 1e9 - 7_200, 2e9, 0.0]).__next__
    scheduler = StepScheduler(Policy(rows_max=1, share=0.3))
    hooks = EngineHooks(on_pixels=lambda _: None, on_failed=lambda failure: pytest.fail(failure.message))
    engine = StepEngine(model, scheduler, hooks, clock, calls=call_sizes(1), stopwatch=lambda: 5.0)
    urgent, normal = (
        replace(make_job(lane.label, lane=lane, steps=30), received_at=1e12) for lane in (Lane.URGENT, Lane.NORMAL)
    )
    engine.submit(urgent)
    engine.tick()
    engine.submit(normal)
    turns = []
    for _ in range(10):
        turns.append(scheduler.choose(5.0))
        engine.tick()
    assert turns == [(urgent.origin,)] * 10
    assert scheduler.cost.step_seconds(scheduler.group(urgent.origin), 1) == 0
