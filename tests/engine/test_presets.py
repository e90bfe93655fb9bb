"""Presets: diffusers' own timesteps and pictures, whatever the request asks for and whatever else is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from devtools.bench.equality.compare import by_diffusers, differing_latents, max_abs_diff
from devtools.bench.equality.draw import WatchedModel, alone, draw, load_toy
from tests.engine.scenario import make_job, stage
from worker.engine.cost import Stage
from worker.engine.samplers import make_sampler
from worker.job import Job, Lane
from worker.presets import PRESETS

pytestmark = pytest.mark.slow

# As the models' cards and their papers give them, on a schedule of 1,000 timesteps.
TIMESTEPS = {
    "turbo-1": [999],
    "turbo-4": [999, 749, 499, 249],
    "lightning-2": [999, 499],
    "lightning-4": [999, 749, 499, 249],
    "lightning-8": [999, 874, 749, 624, 499, 374, 249, 124],
    "lcm-4": [999, 759, 499, 259],
    "lcm-8": [999, 879, 759, 639, 499, 379, 259, 139],
    "tcd-4": [999, 759, 499, 259],
    "hyper-1": [800],
    "hyper-1-unet": [800],
    "hyper-2": [999, 499],
    "hyper-4": [999, 749, 499, 249],
    "hyper-8": [999, 874, 749, 624, 499, 374, 249, 124],
    "hyper-8-cfg": [999, 874, 749, 624, 499, 374, 249, 124],
    "dmd2-1": [399],
    "dmd2-4": [999, 749, 499, 249],
}

presets = pytest.mark.parametrize("name", PRESETS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WatchedModel:
    return load_toy(tmp_path_factory.mktemp("presets"))


def few_steps(name: str, job_id: str = "few", **values: Any) -> Job:
    """A job that asks for 30 steps, much guidance and the refiner, under a preset."""
    job = make_job(job_id, **({"steps": 30, "guidance": 7.5, "refined": True} | values))
    return replace(job, preset=PRESETS[name], negative_prompt="blurry")


def sdxl_config() -> dict[str, Any]:
    """The scheduler configuration of SDXL's base."""
    euler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    return dict(euler.config)


@presets
def test_the_timesteps_are_those_that_the_model_was_distilled_for(name: str) -> None:
    preset = PRESETS[name]
    sampler = make_sampler(
        preset.scheduler,
        sdxl_config(),
        preset.num_inference_steps,
        Stage.BASE,
        refined=False,
        device=torch.device("cpu"),
        generator=torch.Generator(),
        preset=preset,
    )
    assert sampler.timesteps.tolist() == TIMESTEPS[name]


@presets
def test_the_picture_is_diffusers_own(model: WatchedModel, name: str) -> None:
    job = few_steps(name)
    theirs = by_diffusers(model, job)
    assert theirs is not None
    assert max_abs_diff(alone(model, [job], deterministic=False).drawn["few"].latents, theirs) == 0.0


@presets
def test_only_the_steps_of_the_preset_are_made(model: WatchedModel, name: str) -> None:
    one = stage(model)
    one.submit(few_steps(name))
    one.tick(PRESETS[name].num_inference_steps)
    assert list(one.pictures) == ["few"]


def _crowd() -> Sequence[Job]:
    jobs = [few_steps(name, name, seed=seed) for seed, name in enumerate(PRESETS)]
    return [*jobs, make_job("plain", steps=4), make_job("urgent", steps=6, guidance=5.0, lane=Lane.URGENT)]


def test_no_bit_depends_on_company_and_order(model: WatchedModel) -> None:
    lonely = alone(model, _crowd(), deterministic=True)
    assert len(lonely.drawn) == len(PRESETS) + 2
    assert differing_latents(lonely, draw(model, _crowd(), deterministic=True)) == 0
    assert differing_latents(lonely, draw(model, _crowd()[::-1], deterministic=True)) == 0


@pytest.mark.parametrize(("name", "noisy"), [("lcm-4", True), ("tcd-4", True), ("hyper-4", False)])
def test_the_noise_of_a_step_comes_from_the_jobs_own_generator(model: WatchedModel, name: str, noisy: bool) -> None:
    job = few_steps(name)
    row = model.prepare(job, 0.0)
    before = row.generator.get_state()
    row.sampler.step(torch.zeros_like(row.latents), row.latents)
    assert torch.equal(before, row.generator.get_state()) != noisy


@pytest.mark.parametrize("name", ["lcm-4", "tcd-4", "lightning-4"])
def test_a_job_that_is_parked_or_released_draws_the_same_noise(model: WatchedModel, name: str) -> None:
    job = few_steps(name)
    [whole] = stage(model).run(job).pictures.values()
    parked = stage(model)
    parked.submit(job)
    parked.tick(2)
    parked.submit(make_job("urgent", steps=2, guidance=5.0, lane=Lane.URGENT))
    assert (parked.run().pictures["few"].pixels == whole.pixels).all()
    first = stage(model, checkpoints=True)
    first.submit(job)
    first.tick(2)
    first.engine.release(lambda _: False, started=True)
    first.engine.tick()
    # Such schedulers leave no checkpoint: the job begins anew, with its seed.
    [released] = first.released
    assert released.checkpoint is None
    assert (stage(model).run(released).pictures["few"].pixels == whole.pixels).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_diffusers_own(tmp_path: Path, dtype: torch.dtype) -> None:
    half = load_toy(tmp_path, dtype)
    for name in ("turbo-4", "lightning-4", "lcm-4", "tcd-4", "hyper-1", "hyper-4", "dmd2-4"):
        job = few_steps(name)
        theirs = by_diffusers(half, job)
        assert theirs is not None
        assert max_abs_diff(alone(half, [job], deterministic=False).drawn["few"].latents, theirs) == 0.0, name
