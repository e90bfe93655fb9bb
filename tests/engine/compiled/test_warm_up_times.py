"""What the warm-up tells the cost model: a bound on what a job takes that is one before the first job has come."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, cycle
from typing import Any

import pytest
import torch

from devtools.bench.equality.draw import WatchedModel, load_toy
from tests.engine.compiled.compilers import NotCompiled, fast_path
from tests.engine.scenario import Stage, make_job, stage
from worker.engine.compiled.fast_path import FastPath, WarmUpTimes
from worker.engine.compiled.region import Region
from worker.errors import ErrorCode
from worker.job import Job, Lane

COLD_S, STEPS_S, DECODE_S, STEPS = 180.0, (0.5, 0.52, 0.55), 0.25, 4
TRUTH_S = STEPS * min(STEPS_S) + DECODE_S


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WatchedModel:
    return load_toy(tmp_path_factory.mktemp("times"))


class Machine:
    """A machine on which only compiled steps and decodes take time, the first step very much."""

    def __init__(self, model: WatchedModel) -> None:
        self.now = 1000.0
        self._steps = chain([COLD_S], cycle(STEPS_S))
        self._decoder: Any = model.base.vae.decoder

    def clock(self) -> float:
        return self.now

    def spoil(self, region: Region) -> Region:
        def call(*inputs: torch.Tensor) -> Any:
            self.now += next(self._steps)
            return region(*inputs)

        return call

    def decoding(self) -> Iterator[None]:
        handle = self._decoder.register_forward_hook(self._decode)
        yield
        handle.remove()

    def _decode(self, *_: object) -> None:
        self.now += DECODE_S


@pytest.fixture
def machine(model: WatchedModel) -> Iterator[Machine]:
    made = Machine(model)
    for _ in made.decoding():
        yield made


def warm(model: WatchedModel, machine: Machine) -> tuple[Stage, FastPath]:
    fast = fast_path(model, NotCompiled(spoil=machine.spoil), clock=machine.clock)
    return stage(model, fast=fast, clock=machine.clock), fast


def guided(job_id: str, **how: Any) -> Job:
    return make_job(job_id, guidance=5.0, steps=STEPS, **how)


def test_the_bound_is_near_the_truth_before_the_first_job(model: WatchedModel, machine: Machine) -> None:
    play, _ = warm(model, machine)
    job = guided("one")
    plan = play.engine._planner.plan(job)
    assert plan.compiled
    assert TRUTH_S * 0.95 <= play.scheduler.shortest(Lane.NORMAL, plan.left) <= TRUTH_S


def test_what_can_be_met_is_drawn_and_what_cannot_is_refused_at_once(model: WatchedModel, machine: Machine) -> None:
    play, _ = warm(model, machine)
    play.run(guided("hopeless", expires_at=machine.now + 0.8 * TRUTH_S))
    assert play.codes() == {"hopeless": ErrorCode.EXPIRED}
    assert "at least 2.2 s" in play.failures["hopeless"].message
    play.run(guided("soon", expires_at=machine.now + 1.2 * TRUTH_S))
    assert list(play.pictures) == ["soon"]


def test_the_cold_step_is_known_and_bounds_nothing(model: WatchedModel, machine: Machine) -> None:
    play, fast = warm(model, machine)
    [(group, seconds)] = fast.times.steps.items()
    assert seconds == pytest.approx((COLD_S, *STEPS_S))
    assert fast.times.decodes == {(8, 8): pytest.approx((DECODE_S,) * 4)}
    assert play.scheduler.cost.step_seconds(group, 4) == pytest.approx(STEPS_S[1])
    assert play.scheduler.cost.least_seconds(group, 4) == pytest.approx(STEPS_S[0])


def test_a_bucket_that_was_left_out_has_told_nothing(model: WatchedModel, machine: Machine) -> None:
    compiler = NotCompiled(spoil=lambda region: lambda *i: tuple(2 * out for out in machine.spoil(region)(*i)))
    fast = fast_path(model, compiler, clock=machine.clock)
    assert (fast.names, fast.times) == ((), WarmUpTimes())


def test_a_decode_without_memory_is_not_measured_and_stops_nothing(
    model: WatchedModel, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.base.vae, "decode", short)
    _, fast = warm(model, machine)
    assert fast.names
    assert fast.times.decodes == {(8, 8): ()}
