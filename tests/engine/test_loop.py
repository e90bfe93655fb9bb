"""The engine's tick on the toy model: which rows are in which step, and how each job ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from devtools.bench.equality.jobs import write_loras
from tests.engine.scenario import SLOTS, Stage, make_job, stage
from worker.engine.cost import Group
from worker.engine.cost import Stage as ModelStage
from worker.engine.denoise import Denoiser
from worker.engine.pipeline import SdxlModel
from worker.engine.row import Row
from worker.engine.schedule.rows import State
from worker.engine.schedule.scheduler import StepScheduler
from worker.errors import ErrorCode, RequestRejected
from worker.job import Job, Lane, Origin
from worker.models.load import load_base, load_refiner


class Watch:
    """Which rows each step had, by job id; `before_step` may do something to them."""

    def __init__(self, model: SdxlModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[list[str]] = []
        self.decoded: list[str] = []
        self.encoded = 0
        self.before_step: Callable[[Sequence[Row]], None] = lambda _: None
        step, decode, encode = Denoiser.step, SdxlModel.decode, model.base.text_encoder.forward

        def watched_step(denoiser: Denoiser, rows: Sequence[Row], samples: int | None) -> None:
            self.steps.append([row.job.job_id for row in rows])
            self.before_step(rows)
            step(denoiser, rows, samples)

        def watched_decode(model: SdxlModel, row: Row) -> Any:
            self.decoded.append(row.job.job_id)
            return decode(model, row)

        def watched_encode(*args: Any, **kwargs: Any) -> Any:
            self.encoded += 1
            return encode(*args, **kwargs)

        monkeypatch.setattr(Denoiser, "step", watched_step)
        monkeypatch.setattr(SdxlModel, "decode", watched_decode)
        monkeypatch.setattr(model.base.text_encoder, "forward", watched_encode)

    def rows(self, job_id: str) -> int:
        """UNet rows that were computed for a job."""
        return sum(step.count(job_id) for step in self.steps)


@pytest.fixture(scope="module")
def loaded(toy: Path) -> tuple[Any, Any]:
    base = load_base(str(toy / "base"), dtype=torch.float32, device="cpu")
    return base, load_refiner(str(toy / "refiner"), dtype=torch.float32, device="cpu", share=base)


@pytest.fixture
def model(loaded: tuple[Any, Any]) -> SdxlModel:
    return SdxlModel(*loaded)


@pytest.fixture
def watch(model: SdxlModel, monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(model, monkeypatch)


def _full_batch(steps: int = 8) -> list[Job]:
    return [make_job(f"normal-{i}", steps=steps, seed=i) for i in range(SLOTS)]


def test_an_urgent_job_is_in_the_very_next_step_of_a_full_batch(model: SdxlModel, watch: Watch) -> None:
    play = stage(model)
    play.submit(*_full_batch())
    play.tick(3)
    play.submit(make_job("urgent", lane=Lane.URGENT, steps=2))
    play.tick()
    assert watch.steps[3] == ["urgent", "normal-0", "normal-1", "normal-2"]
    assert play.scheduler.state(Origin("normal-3", 0, 0, 0)) is State.PARKED


def test_a_parked_job_resumes_and_nothing_is_computed_twice(model: SdxlModel, watch: Watch) -> None:
    jobs = _full_batch()
    play = stage(model)
    play.submit(*jobs)
    play.tick(3)
    play.run(make_job("urgent", lane=Lane.URGENT, steps=2))
    assert {job.job_id: watch.rows(job.job_id) for job in jobs} == {job.job_id: 8 for job in jobs}
    parked = play.pictures["normal-3"]
    assert np.array_equal(parked.pixels, stage(model).run(jobs[3]).pictures["normal-3"].pixels)
    assert play.scheduler.counts.preemptions == 1


def test_a_job_of_1_step_beside_one_of_50(model: SdxlModel, watch: Watch) -> None:
    play = stage(model)
    play.submit(make_job("long", steps=50))
    play.tick(5)
    play.submit(make_job("short", steps=1))
    play.tick()
    assert watch.steps[5] == ["long", "short"]
    assert "short" in play.pictures
    play.run()
    assert (watch.rows("long"), watch.rows("short")) == (50, 1)
    assert play.outcomes == {"long": 1, "short": 1}


def test_one_picture_is_decoded_per_tick(model: SdxlModel, watch: Watch) -> None:
    play = stage(model)
    play.submit(*(make_job(f"{i}", steps=1) for i in range(3)), make_job("long", steps=9))
    for ended in range(1, 4):
        play.tick()
        assert len(watch.decoded) == len(play.pictures) == ended


def test_a_decode_waits_for_an_urgent_newcomers_first_step(
    model: SdxlModel, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = stage(model)
    play.submit(make_job("done", steps=1))
    original = StepScheduler.advance

    def advance_and_submit(scheduler: StepScheduler, batch: Sequence[Origin]) -> Any:
        finished = original(scheduler, batch)
        if "urgent" not in play.outcomes and not watch.rows("urgent"):
            play.submit(make_job("urgent", lane=Lane.URGENT, steps=2))
        return finished

    monkeypatch.setattr(StepScheduler, "advance", advance_and_submit)
    play.tick()
    assert watch.decoded == []
    play.tick()
    assert watch.steps[1] == ["urgent"]
    assert watch.decoded == ["done"]


@pytest.mark.parametrize("moment", ["queued", "running", "parked", "waiting for decode"])
def test_cancel_gives_exactly_one_failure_at_any_moment(model: SdxlModel, watch: Watch, moment: str) -> None:
    play = stage(model)
    _bring(play, moment)
    rows = watch.rows("victim")
    play.engine.cancel("victim", ErrorCode.CANCELLED, "cancelled by its owner")
    play.engine.cancel("victim", ErrorCode.CANCELLED, "again")
    play.run()
    assert play.codes() == {"victim": ErrorCode.CANCELLED}
    assert play.failures["victim"].message == "cancelled by its owner"
    assert watch.rows("victim") == rows
    assert all(times == 1 for times in play.outcomes.values())
    assert play.scheduler.counts.submitted == play.scheduler.counts.finished + play.scheduler.counts.removed


def test_a_cancellation_after_the_end_or_of_an_unknown_job_is_ignored(model: SdxlModel) -> None:
    play = stage(model).run(make_job("done"))
    for job_id in ("done", "nobody"):
        play.engine.cancel(job_id, ErrorCode.CANCELLED, "too late")
    play.run()
    assert play.outcomes == {"done": 1}


@pytest.mark.parametrize("moment", ["queued", "running", "parked", "waiting for decode"])
def test_a_job_ends_when_its_time_passes(model: SdxlModel, watch: Watch, moment: str) -> None:
    play = stage(model)
    _bring(play, moment, expires_at=10.0)
    rows = watch.rows("victim")
    play.now = 10.5
    play.run()
    assert play.codes() == {"victim": ErrorCode.EXPIRED}
    assert watch.rows("victim") == rows
    assert play.outcomes["victim"] == 1


def test_a_deadline_that_cannot_be_met_costs_no_step(model: SdxlModel, watch: Watch) -> None:
    play = stage(model)
    play.scheduler.cost.observe(Group(ModelStage.BASE, 8, 8, guided=False, samples=2 * SLOTS), SLOTS, *[1.0] * 4)
    play.run(make_job("late", steps=5, expires_at=4.9), make_job("early", steps=5, expires_at=5.1))
    assert play.codes() == {"late": ErrorCode.EXPIRED}
    assert "cannot be met" in play.failures["late"].message
    assert watch.rows("late") == 0
    assert "early" in play.pictures


def test_jobs_that_are_given_back_have_no_outcome(model: SdxlModel, watch: Watch) -> None:
    play = stage(model)
    play.submit(*_full_batch(), make_job("queued"))
    play.tick(2)
    play.engine.release(lambda _: False, started=False)
    play.tick()
    assert play.released_ids == ["queued"]
    play.engine.release(lambda origin: origin.topic == "normal-0", started=True)
    play.run()
    assert set(play.released_ids) == {"queued", "normal-1", "normal-2", "normal-3"}
    assert play.outcomes == {"normal-0": 1}
    assert watch.rows("normal-1") == 3


def test_a_picture_waiting_for_its_decode_is_given_back(model: SdxlModel, watch: Watch) -> None:
    play = stage(model)
    _bring(play, "waiting for decode")
    play.engine.release(lambda _: False, started=True)
    play.run()
    assert "victim" in play.released_ids
    assert "victim" not in play.outcomes
    assert "victim" not in watch.decoded


@pytest.mark.parametrize("victim", range(SLOTS))
def test_nan_in_one_row_reaches_no_other_and_ends_as_model_error(
    loaded: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: int
) -> None:
    write_loras(tmp_path, loaded[0])
    model = SdxlModel(*loaded, lora_dir=tmp_path)
    watch = Watch(model, monkeypatch)
    jobs = [
        make_job("0", steps=5, seed=1, guidance=5.0, loras=[("ink", 1.0)]),
        make_job("1", steps=5, seed=2, scheduler="EulerAncestralDiscreteScheduler"),
        make_job("2", steps=5, seed=3, guidance=3.0),
        make_job("3", steps=5, seed=4, loras=[("ink", 0.5), ("clay", 1.0)]),
    ]
    # Three at a time, so that there is padding; the first row's copies fill it.
    jobs = [jobs[victim], *(job for i, job in enumerate(jobs) if i != victim)][: SLOTS - 1]
    clean = stage(model).run(*jobs).pictures

    def poison(rows: Sequence[Row]) -> None:
        for row in rows:
            if row.job.job_id == f"{victim}" and row.steps_done == 2:
                row.latents = row.latents * float("nan")

    watch.before_step = poison
    play = stage(model).run(*jobs)
    assert play.codes() == {f"{victim}": ErrorCode.MODEL_ERROR}
    assert "UNet returned NaN" in play.failures[f"{victim}"].message
    assert len(play.pictures) == SLOTS - 2
    for job_id, picture in play.pictures.items():
        assert np.array_equal(picture.pixels, clean[job_id].pixels)


@pytest.mark.parametrize("value", [float("nan"), 0.5])
def test_a_picture_of_nan_or_of_one_colour_is_a_model_error(
    model: SdxlModel, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    decode = model.base.vae.decode
    broken: list[bool] = [True, False]

    def decode_badly(latents: torch.Tensor, return_dict: bool = True) -> Any:
        decoded = decode(latents, return_dict=return_dict)
        if broken.pop(0):
            # Flat though its channels differ: of one colour, not of one value.
            decoded[0][:] = torch.tensor([value, 0.1, -0.3]).view(1, 3, 1, 1)
        return decoded

    monkeypatch.setattr(model.base.vae, "decode", decode_badly)
    play = stage(model).run(make_job("bad"), make_job("good"))
    assert play.codes() == {"bad": ErrorCode.MODEL_ERROR}
    assert list(play.pictures) == ["good"]


def test_prompts_are_encoded_once_per_content(model: SdxlModel, watch: Watch) -> None:
    play = stage(model)
    play.run(*(make_job(f"{i}", seed=i, prompt="the same") for i in range(3)))
    once = watch.encoded
    assert once == 1
    play.run(make_job("again", prompt="the same"))
    assert watch.encoded == once
    play.run(make_job("guided", prompt="the same", guidance=5.0), make_job("other", prompt="another"))
    assert watch.encoded > once


def test_progress_is_told_at_the_start_and_at_each_quarter(model: SdxlModel) -> None:
    play = stage(model).run(make_job("eight", steps=8), make_job("one", steps=1))
    assert play.progress == [("eight", 1, 8), ("eight", 2, 8), ("eight", 4, 8), ("eight", 6, 8)]


def test_a_job_that_is_refused_while_it_is_prepared_ends_alone(
    model: SdxlModel, monkeypatch: pytest.MonkeyPatch, watch: Watch
) -> None:
    prepare = SdxlModel.prepare

    def refuse_one(self: SdxlModel, job: Job, now: float) -> Any:
        if job.job_id == "1":
            raise RequestRejected(ErrorCode.UNKNOWN_LORA, "gone")
        return prepare(self, job, now)

    monkeypatch.setattr(SdxlModel, "prepare", refuse_one)
    play = stage(model).run(*(make_job(f"{i}") for i in range(3)))
    assert play.codes() == {"1": ErrorCode.UNKNOWN_LORA}
    assert set(play.pictures) == {"0", "2"}
    assert watch.rows("0") == 4


def test_a_refined_job_without_a_step_of_the_base_goes_straight_to_the_refiner(model: SdxlModel, watch: Watch) -> None:
    # Its only timestep is 1: below the cut.
    job = make_job("one step", steps=1, refined=True, scheduler="EulerDiscreteScheduler")
    assert [segment.group.stage for segment in model.segments(job)] == [ModelStage.REFINER]
    play = stage(model).run(job, make_job("plain", steps=2))
    assert set(play.pictures) == {"one step", "plain"}
    assert watch.rows("one step") == 1


def test_high_quality_without_a_refiner_is_refused(loaded: tuple[Any, Any]) -> None:
    play = stage(SdxlModel(loaded[0])).run(make_job("refined", refined=True), make_job("plain"))
    assert play.codes() == {"refined": ErrorCode.INVALID_REQUEST}
    assert list(play.pictures) == ["plain"]


def _bring(play: Stage, moment: str, expires_at: float | None = None) -> None:
    """Bring the job `victim` to a moment of its life; others keep it company."""

    def victim(steps: int) -> Job:
        return make_job("victim", steps=steps, expires_at=expires_at)

    match moment:
        case "queued":
            play.submit(*_full_batch(), victim(4))
            play.tick()
            assert play.scheduler.state(victim(4).origin) is State.WAITING
        case "running":
            play.submit(victim(8), make_job("other", steps=8))
            play.tick(3)
            assert play.scheduler.state(victim(8).origin) is State.ACTIVE
        case "parked":
            play.submit(victim(8))
            play.tick(3)
            play.submit(*(make_job(f"urgent-{i}", lane=Lane.URGENT) for i in range(SLOTS)))
            play.tick()
            assert play.scheduler.state(victim(8).origin) is State.PARKED
        case _:
            play.submit(make_job("first", steps=1, lane=Lane.HIGH), victim(1), make_job("long", steps=9))
            play.tick()
            assert victim(1).origin in play.engine._jobs.to_decode
