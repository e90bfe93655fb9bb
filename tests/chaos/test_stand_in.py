"""The stand-in engine: a long picture can be cancelled, released and outlived, a short one takes one tick."""

from __future__ import annotations

import pytest

from tests.chaos.stand_in import SLICE_S, StandInEngine, long_picture_s
from tests.harness import small_request
from worker.engine_interface import EngineHooks
from worker.errors import ErrorCode
from worker.failure import Failure
from worker.job import Job, Lane, Origin
from worker.picture import Picture


class Hooks:
    """What the engine has told."""

    def __init__(self) -> None:
        self.pictures: list[Picture] = []
        self.failures: list[Failure] = []
        self.released: list[Job] = []
        self.slept: list[float] = []

    def engine(self) -> StandInEngine:
        hooks = EngineHooks(
            on_pixels=self.pictures.append, on_failed=self.failures.append, on_released=self.released.append
        )
        return StandInEngine(hooks, 0.001, long_pictures=True, sleep=self.slept.append)


def job(job_id: str) -> Job:
    return Job(
        request=small_request(job_id=job_id),
        lane=Lane.NORMAL,
        origin=Origin(job_id, 0, 0, 0),
        seed=7,
        loras=(),
        prompt="a lighthouse",
        negative_prompt=None,
        attempt=1,
        requested_at=0.0,
        received_at=0.0,
        expires_at=None,
    )


LONG = next(f"job-{n}" for n in range(999) if long_picture_s(f"job-{n}"))
SHORT = next(f"job-{n}" for n in range(999) if long_picture_s(f"job-{n}") is None)


def test_two_percent_of_the_pictures_take_half_a_second_to_three() -> None:
    found = [seconds for n in range(10_000) if (seconds := long_picture_s(f"chaos-{n:07d}"))]
    assert 150 < len(found) < 250
    assert 0.5 <= min(found) < 0.7
    assert 2.8 < max(found) <= 3.0


def test_a_short_picture_takes_one_tick_and_a_long_one_several() -> None:
    hooks = Hooks()
    engine = hooks.engine()
    engine.submit(job(SHORT))
    assert engine.tick()
    assert [made.job.job_id for made in hooks.pictures] == [SHORT]
    engine.submit(job(LONG))
    for _ in range(4):
        assert engine.tick()
    assert len(hooks.pictures) == 1
    while engine.tick():
        pass
    assert [made.job.job_id for made in hooks.pictures] == [SHORT, LONG]
    assert max(hooks.slept) <= SLICE_S
    assert sum(hooks.slept) == pytest.approx(0.001 + (long_picture_s(LONG) or 0))


def test_a_long_picture_is_cancelled_before_its_next_slice() -> None:
    hooks = Hooks()
    engine = hooks.engine()
    engine.submit(job(LONG))
    engine.tick()
    engine.cancel(LONG, ErrorCode.CANCELLED, "no longer wanted")
    assert [failure.request.job_id for failure in hooks.failures] == [LONG]
    assert not engine.tick()
    assert not hooks.pictures


def test_a_long_picture_is_released_only_where_started_ones_are() -> None:
    hooks = Hooks()
    engine = hooks.engine()
    engine.submit(job(LONG))
    engine.tick()
    engine.release(lambda _: False, started=False)
    assert not hooks.released
    engine.release(lambda _: False, started=True)
    assert [left.job_id for left in hooks.released] == [LONG]
    assert not engine.tick()
    assert not hooks.pictures
