"""Merged LoRAs through the engine: what company, cancelling, broken files and failing allocations do to them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from devtools.bench.jobs import call_sizes
from tests.engine.lora_files import write_peft
from tests.engine.scenario import SLOTS, Stage, make_job, stage
from worker.engine.lora import exchange
from worker.engine.lora.exchange import Exchange
from worker.engine.merging import SetMerging
from worker.engine.pipeline import SdxlModel
from worker.errors import ErrorCode
from worker.job import Job, Lane
from worker.lora_method import LoraMethods, LoraMode

pytestmark = pytest.mark.slow

SETS: dict[str, list[tuple[str, float]]] = {
    "bare": [],
    "one": [("one", 0.8)],
    "two": [("two", -1.0), ("one", 0.3)],
    "text": [("text", 1.0)],
}
MODES = pytest.mark.parametrize("options", [{}, {"lora_second_copy": False}, {"refiner_offload": True}], ids=str)


@pytest.fixture
def one_layer_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge takes as many ticks as the set changes layers."""
    monkeypatch.setattr(exchange, "_SLICE_ELEMENTS", 1)
    monkeypatch.setattr(SetMerging, "_for", lambda *_: lambda: False)


def jobs(**options: Any) -> list[Job]:
    return [make_job(name, loras=loras, guidance=3.0, **options) for name, loras in SETS.items()]


def alone(model: SdxlModel, all_jobs: list[Job]) -> dict[str, Any]:
    return {job.job_id: stage(model).run(job).pictures[job.job_id].pixels for job in all_jobs}


def assert_same(play: Stage, expected: dict[str, Any]) -> None:
    assert play.pictures.keys() == expected.keys(), play.codes()
    assert [name for name in expected if (play.pictures[name].pixels != expected[name]).any()] == []


@MODES
@pytest.mark.usefixtures("one_layer_a_step")
def test_pictures_do_not_depend_on_company_or_on_how_weights_are_exchanged(
    make_model: Any, options: dict[str, Any]
) -> None:
    all_jobs = [*jobs(steps=3), make_job("refined", loras=SETS["one"], steps=12, refined=True)]
    expected = alone(make_model(), all_jobs)
    model = make_model(**options)
    play = stage(model)
    for job in all_jobs:
        # They arrive one after the other, each while others are drawn or their sets merged.
        play.submit(job)
        play.tick(3)
    play.run()
    assert_same(play, expected)
    assert model.lora_cache.exchange.merges > 2
    assert (play.pictures["one"].pixels != play.pictures["bare"].pixels).any()
    assert all(picture.reproducible for picture in play.pictures.values())
    model.lora_cache.free()
    assert model.lora_cache.loaded == 0, "every job has released its LoRAs"


def test_the_setting_decides_and_the_job_may_say_otherwise(make_model: Any) -> None:
    merged, hooked, mixed = (
        make_model(lora_methods=LoraMethods(mode, call_sizes(SLOTS)))
        for mode in (LoraMode.MERGED, LoraMode.HOOKS, LoraMode.MIXED)
    )
    job = make_job("one", loras=SETS["one"], guidance=3.0)
    for model, merges in ((merged, 1), (hooked, 0), (mixed, 0)):
        stage(model).run(job)
        assert model.lora_cache.exchange.merges == merges


@pytest.mark.usefixtures("one_layer_a_step")
def test_rows_without_loras_are_stepped_while_a_set_is_merged(make_model: Any) -> None:
    model = make_model()
    play = stage(model, slots=1)
    play.submit(make_job("bare", steps=30), make_job("later", steps=2, loras=SETS["one"]))
    play.tick(12)
    [bare] = [live.row for live in play.engine._jobs.stepping.values() if live.row is not None]
    assert bare.steps_done == 12, "no tick went by without its step"
    assert 0 < len(model.lora_cache.exchange._work.slots) < 13, "the set was merged meanwhile"


@pytest.mark.usefixtures("one_layer_a_step")
def test_a_job_that_needs_another_set_is_held_up_and_its_lane_goes_on(make_model: Any) -> None:
    model = make_model()
    play = stage(model, slots=1)
    play.submit(make_job("one", steps=2, loras=SETS["one"]))
    play.engine._inbox.run()
    play.submit(make_job("bare", steps=40), make_job("last", steps=2))
    play.tick(10)
    assert play.scheduler.held_up is not None
    done = {
        live.job.job_id: live.row.steps_done for live in play.engine._jobs.stepping.values() if live.row is not None
    }
    assert done == {"bare": 10}
    play.run()
    assert play.outcomes == {"one": 1, "bare": 1, "last": 1}


@pytest.mark.usefixtures("one_layer_a_step")
def test_lower_lanes_wait_while_the_set_of_an_urgent_job_is_merged(make_model: Any) -> None:
    play = stage(make_model(), slots=1)
    play.submit(make_job("low", steps=30))
    play.tick(2)
    play.submit(make_job("urgent", lane=Lane.URGENT, steps=2, loras=SETS["one"]))
    play.tick(6)
    [low] = [live.row for live in play.engine._jobs.stepping.values() if live.row is not None]
    assert low.steps_done == 2
    play.run()


@MODES
@pytest.mark.usefixtures("one_layer_a_step")
def test_a_job_cancelled_while_its_set_is_merged_leaves_nothing_behind(
    make_model: Any, options: dict[str, Any]
) -> None:
    expected = alone(make_model(), jobs())
    model = make_model(**options)
    play = stage(model)
    play.submit(make_job("gone", loras=[("two", 5.0)]))
    play.tick(3)
    assert not model.lora_cache.exchange._whole, "its set is half merged"
    play.engine.cancel("gone", ErrorCode.CANCELLED, "cancelled")
    play.run(*jobs())
    assert play.codes() == {"gone": ErrorCode.CANCELLED}
    assert_same(play, expected)


@pytest.mark.usefixtures("one_layer_a_step")
def test_a_file_that_breaks_after_merging_began_changes_nothing(make_model: Any, folder: Path) -> None:
    model = make_model()
    job = make_job("one", loras=SETS["one"])
    expected = alone(model, [job])
    play = stage(model)
    play.submit(job)
    play.tick(3)
    (folder / "one.safetensors").write_bytes(b"no tensors any more")
    play.run()
    assert_same(play, expected)
    assert stage(model).run(job).codes() == {"one": ErrorCode.UNKNOWN_LORA}


@pytest.mark.parametrize("second_copy", [True, False], ids=["second copy", "in place"])
def test_a_merge_without_memory_costs_no_picture(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, second_copy: bool
) -> None:
    expected = alone(make_model(), jobs())
    model, real = make_model(lora_second_copy=second_copy), Exchange._write
    calls = [0]

    def short(self: Exchange, *args: Any) -> int:
        calls[0] += 1
        if calls[0] in (3, 20):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, *args)

    monkeypatch.setattr(Exchange, "_write", short)
    play = stage(model).run(*jobs())
    assert_same(play, expected)
    assert calls[0] > 20
    assert model.lora_cache.exchange.has_second_copy == second_copy, "once idle, there is room again"


def test_a_set_that_never_fits_fails_its_job_alone(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()

    def never(*_: Any) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Exchange, "_write", never)
    play = stage(model).run(*jobs())
    assert play.codes() == dict.fromkeys(("one", "two", "text"), ErrorCode.OUT_OF_MEMORY)
    assert "bare" in play.pictures


def test_a_checkpoint_is_resumed_by_another_worker_with_other_sets_before(make_model: Any) -> None:
    job = make_job("one", loras=SETS["one"], steps=6, guidance=3.0)
    expected = alone(make_model(), [job])
    first = stage(make_model(), checkpoints=True)
    first.submit(job)
    first.tick(3)
    first.engine.release(lambda _: False, started=True)
    first.engine.tick()
    [released] = first.released
    assert released.checkpoint is not None
    other = make_model(lora_second_copy=False)
    stage(other).run(make_job("two", loras=SETS["two"]))
    second = stage(other).run(released)
    assert_same(second, expected)


def test_the_cache_keeps_within_its_bytes(make_model: Any, folder: Path) -> None:
    """200 sets, chosen by Zipf's law, of files that do not all fit."""
    model = make_model()
    size = 0
    for number in range(20):
        path = folder / f"l{number}.safetensors"
        write_peft(path, model.base, seed=number)
        size = path.stat().st_size
    bound = 5 * size
    ours = make_model(lora_cache_bytes=bound)
    rng, play, most = random.Random(0), stage(ours, slots=1), 0
    for number in range(200):
        name = f"l{min(19, int(rng.paretovariate(1)) - 1)}"
        play.submit(make_job(f"{number}", steps=1, loras=[(name, rng.choice((-1.0, 0.5, 1.0)))]))
        while play.engine.tick():
            most = max(most, ours.lora_cache.bytes_held)
    assert len(play.pictures) == 200
    assert size < most <= bound
