"""Bases of every formulation draw what diffusers draws with them: velocity, zero terminal SNR, and no clipping."""

from __future__ import annotations

import inspect
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from devtools.bench.equality.compare import against_diffusers, in_company
from devtools.bench.equality.draw import WatchedModel, load_toy
from devtools.bench.equality.jobs import random_jobs
from tests.engine.test_trial import WITHOUT_ZERO_SNR
from worker.engine.cost import Stage
from worker.engine.pipeline import SdxlModel
from worker.engine.samplers import build_scheduler
from worker.job import SCHEDULERS, Job

# numpy 2 on diffusers' KDPM2 schedulers.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")]

ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.fixture(scope="module")
def zero_snr(tmp_path_factory: pytest.TempPathFactory) -> WatchedModel:
    model = load_toy(tmp_path_factory.mktemp("zero-snr"))
    for pipeline in (model.base, model.refiner):
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **ZERO_SNR)
    return model


def test_zero_terminal_snr_equals_diffusers_with_guidance_rescale(zero_snr: WatchedModel) -> None:
    jobs = _jobs_for(set(SCHEDULERS) - WITHOUT_ZERO_SNR, 24)
    result = against_diffusers(zero_snr, jobs)
    assert (result["diffusers_max_abs_diff"], result["diffusers_refused"]) == (0.0, 0)


def test_guidance_rescale_does_not_depend_on_company(zero_snr: WatchedModel) -> None:
    jobs = _jobs_for(set(SCHEDULERS) - WITHOUT_ZERO_SNR, 12)
    assert in_company(zero_snr, jobs, random.Random(3))["differing_latents"] == 0


def test_guidance_is_rescaled_only_with_zero_terminal_snr(zero_snr: WatchedModel, base: Any) -> None:
    assert [zero_snr.guidance_rescale(stage) for stage in Stage] == [0.7, 0.7]
    assert SdxlModel(base).guidance_rescale(Stage.BASE) == 0.0


def test_no_karras_sigmas_with_zero_terminal_snr(zero_snr: WatchedModel) -> None:
    scheduler = build_scheduler("DPMSolverMultistepScheduler", zero_snr.base.scheduler.config)
    scheduler.set_timesteps(10)
    assert not scheduler.config.use_karras_sigmas
    assert scheduler.timesteps[0] == 999
    assert scheduler.sigmas[1] < 100, "the second step is at a noise level that the base knows"


@pytest.mark.parametrize("clips", [None, True])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_latents_are_never_clipped(name: str, clips: bool | None) -> None:
    config: dict[str, Any] = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear"}
    stated = config if clips is None else config | {"clip_sample": clips}
    assert torch.equal(_stepped(name, stated), _stepped(name, config | {"clip_sample": False}))


@pytest.mark.parametrize("kind", ["use_exponential_sigmas", "use_beta_sigmas"])
def test_a_base_with_other_sigmas_keeps_the_default_scheduler(kind: str) -> None:
    scheduler = build_scheduler("DPMSolverMultistepScheduler", {"num_train_timesteps": 1000, kind: True})
    scheduler.set_timesteps(4)
    assert scheduler.config.use_karras_sigmas


def _jobs_for(schedulers: set[str], count: int) -> list[Job]:
    jobs = random_jobs(count, random.Random(8))
    names = sorted(schedulers)
    return [
        replace(job, request=replace(job.request, scheduler=names[index % len(names)]))
        for index, job in enumerate(jobs)
    ]


def _stepped(name: str, config: dict[str, Any]) -> torch.Tensor:
    """Latents well beyond 1 after a scheduler's first two steps."""
    scheduler = build_scheduler(name, config)
    scheduler.set_timesteps(4)
    generator = torch.Generator().manual_seed(1)
    latents, noise = (3 * torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    own_noise = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for timestep in scheduler.timesteps[:2]:
        latents = scheduler.step(noise, timestep, scheduler.scale_model_input(latents, timestep), **own_noise)[0]
    return latents
