"""A released job continues in another engine at the step that it reached, to the same bits."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from structlog.testing import capture_logs

from devtools.bench.equality.draw import load_toy
from devtools.bench.equality.jobs import LORAS, fewest_jobs, random_jobs, write_loras
from tests.engine.scenario import Stage, make_job, stage
from worker.engine.pipeline import SdxlModel
from worker.job import SCHEDULERS, Job

pytestmark = pytest.mark.slow

STEPS = 10
# Of ten Karras steps the base takes eight.
IN_THE_BASE, AT_THE_CUT, IN_THE_REFINER = 3, 8, 9


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SdxlModel:
    return load_toy(tmp_path_factory.mktemp("checkpoints"))


def default_jobs(count: int, seed: int) -> list[Job]:
    """Random jobs of four steps and more, with the default scheduler."""
    jobs = random_jobs(fewest_jobs() + count, random.Random(seed), loras=LORAS)[fewest_jobs() :]
    return [replace(job, request=replace(job.request, scheduler=SCHEDULERS[0])) for job in jobs]


def released(model: SdxlModel, jobs: Sequence[Job], ticks: int) -> tuple[Stage, dict[str, Job]]:
    """What an engine does within so many ticks, and what it hands back then, by job id."""
    first = stage(model, checkpoints=True)
    first.submit(*jobs)
    first.tick(ticks)
    first.engine.release(lambda _: False, started=True)
    first.engine.tick()
    return first, {job.job_id: job for job in first.released}


def stopped_at(model: SdxlModel, job: Job, steps: int) -> Job:
    [stopped] = released(model, [job], steps)[1].values()
    assert stopped.checkpoint is not None
    return stopped


@pytest.mark.parametrize("ticks", [5, 16, 29])
def test_pictures_do_not_depend_on_where_they_were_made(model: SdxlModel, ticks: int) -> None:
    jobs = default_jobs(16, seed=ticks)
    whole = stage(model).run(*jobs)
    first, back = released(model, jobs, ticks)
    second = stage(model).run(*reversed(back.values()))
    drawn = first.pictures | second.pictures
    assert drawn.keys() == whole.pictures.keys()
    assert [name for name in drawn if not np.array_equal(drawn[name].pixels, whole.pictures[name].pixels)] == []
    assert any(job.checkpoint for job in back.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_too(tmp_path: Path, dtype: torch.dtype) -> None:
    model = load_toy(tmp_path, dtype)
    for job in default_jobs(2, seed=5):
        job = replace(job, request=replace(job.request, num_inference_steps=STEPS, high_quality=True))
        [whole] = stage(model).run(job).pictures.values()
        for steps in (IN_THE_BASE, AT_THE_CUT, IN_THE_REFINER):
            [resumed] = stage(model).run(stopped_at(model, job, steps)).pictures.values()
            assert np.array_equal(whole.pixels, resumed.pixels), steps


@pytest.mark.parametrize("done", [1, IN_THE_BASE, AT_THE_CUT, IN_THE_REFINER])
def test_only_the_steps_that_are_left_are_made(model: SdxlModel, done: int) -> None:
    stopped = stopped_at(model, make_job("a", steps=STEPS, refined=True), done)
    second = stage(model)
    second.submit(stopped)
    second.now = 100.0
    # The last tick decodes too.
    second.tick(STEPS - done)
    assert list(second.pictures) == ["a"]
    assert second.pictures["a"].timing.started_at == 0.0, "of the first worker's first step"


def test_a_job_may_be_handed_on_and_on(model: SdxlModel) -> None:
    job = make_job("a", steps=STEPS, guidance=5.0)
    [whole] = stage(model).run(job).pictures.values()
    for steps in (2, 1, 3):
        job = stopped_at(model, job, steps)
    last = stage(model)
    last.submit(job)
    last.tick(STEPS - 6)
    assert np.array_equal(last.pictures["a"].pixels, whole.pixels)


def test_waiting_jobs_and_other_schedulers_are_released_bare(model: SdxlModel) -> None:
    ancestral = make_job("own", steps=STEPS, scheduler="EulerAncestralDiscreteScheduler")
    waiting = [make_job(f"later-{n}", steps=STEPS, seed=n) for n in range(4)]
    _, back = released(model, [ancestral, *waiting], 3)
    assert back["own"].checkpoint is None
    assert [job.job_id for job in back.values() if job.checkpoint is not None] == ["later-0", "later-1", "later-2"]


def test_without_the_setting_nothing_is_kept(model: SdxlModel) -> None:
    one = stage(model)
    one.submit(make_job("a", steps=STEPS))
    one.tick(3)
    one.engine.release(lambda _: False, started=True)
    one.engine.tick()
    assert [job.checkpoint for job in one.released] == [None]


def _changed(data: bytes, **tensors: torch.Tensor) -> bytes:
    return save(load(data) | tensors)


def _facts(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "no safetensors": lambda _: b"\x80\x04K\x01." * 40,
    "another shape": lambda data: _changed(data, latents=torch.zeros(1, 4, 4, 4), previous=torch.zeros(1, 4, 4, 4)),
    "another precision": lambda data: _changed(data, latents=load(data)["latents"].half()),
    "one tensor of another shape": lambda data: _changed(data, previous=torch.zeros(1)),
    "no facts": lambda _: save({"latents": torch.zeros(1), "previous": torch.zeros(1)}),
    "facts that are none": lambda data: _changed(data, facts=_facts('{"steps_done": "3"}')),
    "all steps done": lambda data: _changed(
        data, facts=_facts(bytes(load(data)["facts"].tolist()).decode().replace('"steps_done":3', '"steps_done":10'))
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_checkpoint_of_no_use_is_told_and_the_job_begins_anew(model: SdxlModel, damage: str) -> None:
    job = make_job("a", steps=STEPS, guidance=5.0)
    [whole] = stage(model).run(job).pictures.values()
    stopped = stopped_at(model, job, 3)
    assert stopped.checkpoint is not None
    with capture_logs() as lines:
        again = stage(model).run(replace(stopped, checkpoint=DAMAGE[damage](stopped.checkpoint)))
    assert [line["event"] for line in lines] == ["checkpoint_unusable"]
    assert np.array_equal(again.pictures["a"].pixels, whole.pixels)


def test_a_lora_that_changed_in_between_is_noticed(tmp_path: Path) -> None:
    model = load_toy(tmp_path)
    assert model.lora_dir is not None
    job = make_job("a", steps=STEPS, loras=[(LORAS[0], 1.0)])
    stopped = stopped_at(model, job, 3)
    (model.lora_dir / f"{LORAS[0]}.safetensors").write_bytes((model.lora_dir / f"{LORAS[1]}.safetensors").read_bytes())
    [whole] = stage(model).run(job).pictures.values()
    [again] = stage(model).run(stopped).pictures.values()
    assert np.array_equal(again.pixels, whole.pixels)
    write_loras(model.lora_dir, model.base)
    [resumed] = stage(model).run(stopped).pictures.values()
    assert not np.array_equal(resumed.pixels, whole.pixels)
