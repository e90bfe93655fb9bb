"""The same request gives the same picture: alone, in a batch, and with diffusers' own pipelines."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from devtools.bench.equality.compare import (
    against_diffusers,
    by_diffusers,
    differing_latents,
    differing_pixels,
    in_company,
    max_abs_diff,
    run,
)
from devtools.bench.equality.draw import Drawing, WatchedModel, alone, draw, load_toy
from devtools.bench.equality.jobs import LORAS, fewest_jobs, random_jobs
from worker.job import SCHEDULERS, Job

# numpy 2 on diffusers' KDPM2 schedulers.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")]

FEW_STEPS = (1, 2, 3)
OWN_NOISE = ("EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DDPMScheduler", "LCMScheduler")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WatchedModel:
    return load_toy(tmp_path_factory.mktemp("equality"))


@pytest.mark.timeout(1200)  # a minute of work, on a machine that may be busy
def test_the_pixels_of_120_jobs_do_not_depend_on_company(model: WatchedModel) -> None:
    rng = random.Random(0)
    jobs = random_jobs(120, rng, loras=LORAS)  # `make equality` draws 200
    _assert_covers_every_scheduler(jobs)
    result = in_company(model, jobs, rng)
    assert (result["differing_pixels"], result["differing_latents"], result["refused"]) == (0, 0, 0)
    assert result["rows_per_step"] > 1.5, "the jobs had no company to speak of"
    assert result["merges"] > 60, "few LoRAs were merged"
    assert result["preemptions"] > 50


def test_50_jobs_alone_equal_diffusers_own_pipelines(model: WatchedModel) -> None:
    jobs = random_jobs(50, random.Random(1))
    _assert_covers_every_scheduler(jobs)
    result = against_diffusers(model, jobs)
    assert (result["diffusers_max_abs_diff"], result["diffusers_refused"]) == (0.0, 0)
    assert result["diffusers_refined"] > 10


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_refined_pictures_of_few_steps_equal_diffusers(model: WatchedModel, scheduler: str) -> None:
    jobs = [_with(job, scheduler, steps) for job, steps in zip(_plain_jobs(3), FEW_STEPS, strict=True)]
    refined = [replace(job, request=replace(job.request, high_quality=True)) for job in jobs]
    assert against_diffusers(model, refined)["diffusers_max_abs_diff"] == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_equals_diffusers(tmp_path: Path, dtype: torch.dtype) -> None:
    jobs = random_jobs(fewest_jobs(), random.Random(2))
    _assert_covers_every_scheduler(jobs)
    model = load_toy(tmp_path, dtype)
    assert against_diffusers(model, jobs)["diffusers_max_abs_diff"] == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_models_that_predict_velocity_equal_diffusers(tmp_path: Path, dtype: torch.dtype) -> None:
    jobs = random_jobs(fewest_jobs(), random.Random(6))
    _assert_covers_every_scheduler(jobs)
    if dtype is torch.float16:  # slow on a CPU: every scheduler once, at 1, 2 or 3 steps
        jobs = jobs[:: len(FEW_STEPS)]
        assert {job.request.scheduler for job in jobs} == set(SCHEDULERS)
    model = load_toy(tmp_path, dtype)
    for pipeline in (model.base, model.refiner):
        pipeline.scheduler = type(pipeline.scheduler).from_config(
            pipeline.scheduler.config, prediction_type="v_prediction"
        )
    assert against_diffusers(model, jobs)["diffusers_max_abs_diff"] == 0.0
    rng = random.Random(7)
    assert in_company(model, random_jobs(len(SCHEDULERS), rng), rng)["differing_latents"] == 0


@pytest.mark.parametrize("scheduler", OWN_NOISE)
def test_noise_of_a_scheduler_comes_from_the_jobs_own_generator(model: WatchedModel, scheduler: str) -> None:
    jobs = [_with(job, scheduler, 5) for job in _plain_jobs(4)]
    lonely = alone(model, jobs, deterministic=True)
    assert differing_latents(lonely, draw(model, jobs, deterministic=True)) == 0
    torch.randn(1)  # nobody draws from torch's own generator
    assert differing_latents(lonely, draw(model, jobs[::-1], deterministic=True)) == 0


def test_a_wrong_seed_is_found_by_both_comparisons(model: WatchedModel) -> None:
    jobs = random_jobs(3, random.Random(4))
    wrong = [jobs[0], replace(jobs[1], seed=jobs[1].seed + 1), jobs[2]]
    right, other = alone(model, jobs, deterministic=False), alone(model, wrong, deterministic=False)
    assert differing_pixels(right, other) > 0
    assert differing_latents(right, other) == 1
    theirs = by_diffusers(model, jobs[1])
    assert theirs is not None
    assert max_abs_diff(right.drawn["job-1"].latents, theirs) == 0
    assert max_abs_diff(other.drawn["job-1"].latents, theirs) > 0


def test_one_bit_of_one_latent_and_one_pixel_are_found(model: WatchedModel) -> None:
    jobs = random_jobs(1, random.Random(5))
    one, other = alone(model, jobs, deterministic=True), alone(model, jobs, deterministic=True)
    other.drawn["job-0"].latents.view(torch.int32)[0, 0, 0, 0] ^= 1
    assert differing_latents(one, other) == 1
    assert 0 < max_abs_diff(one.drawn["job-0"].latents, other.drawn["job-0"].latents) < 1e-5
    other.drawn["job-0"].pixels[0, 0, 2] ^= 1
    assert differing_pixels(one, other) == 1


def test_a_missing_picture_and_nan_are_found(model: WatchedModel) -> None:
    drawing = alone(model, _plain_jobs(1), deterministic=True)
    assert differing_pixels(drawing, Drawing()) == drawing.drawn["job-0"].pixels[..., 0].size
    latents = drawing.drawn["job-0"].latents
    assert max_abs_diff(latents, latents * float("nan")) == float("inf")


def test_the_bench_writes_what_it_found(tmp_path: Path) -> None:
    result = run(4, 0, tmp_path, against=2)
    assert (tmp_path / "equality.json").read_text().startswith("{")
    assert (result["jobs"], result["differing_pixels"], result["diffusers_max_abs_diff"]) == (4, 0, 0.0)


def _plain_jobs(count: int) -> list[Job]:
    return [
        replace(job, request=replace(job.request, high_quality=False)) for job in random_jobs(count, random.Random(3))
    ]


def _with(job: Job, scheduler: str, steps: int) -> Job:
    return replace(
        job, request=replace(job.request, scheduler=scheduler, num_inference_steps=steps, width=64, height=64)
    )


def _assert_covers_every_scheduler(jobs: Sequence[Job]) -> None:
    seen = {(job.request.scheduler, job.request.num_inference_steps) for job in jobs}
    assert seen >= {(scheduler, steps) for scheduler in SCHEDULERS for steps in FEW_STEPS}
