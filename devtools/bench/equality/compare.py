"""Check that the same request gives the same picture: alone, in a batch, and with diffusers' own pipelines.

There are two comparisons over random jobs on the toy model. With `deterministic`, each job is drawn alone and among all
the others, which arrive at random and park each other; the pixels are compared. Without it, each job is drawn alone and
by `StableDiffusionXLPipeline.__call__`, followed by `StableDiffusionXLImg2ImgPipeline`; the latents are compared bit by
bit.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from devtools.bench.equality.draw import Drawing, WatchedModel, alone, draw, load_toy
from devtools.bench.equality.jobs import LORAS, random_jobs
from worker.engine.pipeline import SdxlModel
from worker.engine.samplers import HANDOVER, build_scheduler, guidance_rescale
from worker.job import Job

DEFAULT_COUNT = 200
_LEAST_AGAINST_DIFFUSERS = 50
_LIBRARIES = ("torch", "diffusers", "transformers")


def differing_pixels(one: Drawing, other: Drawing) -> int:
    """Count the pixels that differ; a picture that only one side has counts with all its pixels."""
    differing = 0
    for job_id in one.drawn.keys() | other.drawn.keys():
        a, b = one.drawn.get(job_id), other.drawn.get(job_id)
        if a is None or b is None:
            present = (a or b).pixels  # type: ignore[union-attr]
            differing += present.shape[0] * present.shape[1]
        else:
            differing += int((a.pixels != b.pixels).any(axis=-1).sum())
    return differing


def differing_latents(one: Drawing, other: Drawing) -> int:
    """Count the pictures whose latents differ in any bit; unlike pixels, latents are not rounded to 8 bits."""
    both = one.drawn.keys() & other.drawn.keys()
    return sum(not torch.equal(one.drawn[job_id].latents, other.drawn[job_id].latents) for job_id in both)


def by_diffusers(model: SdxlModel, job: Job) -> torch.Tensor | None:
    """Return the latents from diffusers' own pipelines, or None if they cannot make the schedule."""
    request, generator = job.request, torch.Generator().manual_seed(job.seed)
    options: dict[str, Any] = {
        "num_inference_steps": job.num_inference_steps,
        "guidance_scale": job.guidance_scale,
        "negative_prompt": job.negative_prompt,
        "generator": generator,
        "output_type": "latent",
        "guidance_rescale": guidance_rescale(model.base.scheduler.config),
    }
    if job.preset is not None:
        options |= {"eta": job.preset.eta, "timesteps": list(job.preset.timesteps) or None}
    try:
        with _scheduler(model.base, job), _scheduler(model.refiner, job):
            size = {"height": request.height, "width": request.width}
            if not job.high_quality:
                plain: torch.Tensor = model.base(job.prompt, **size, **options).images
                return plain
            latents = model.base(job.prompt, **size, **options, denoising_end=HANDOVER).images
            refined: torch.Tensor = model.refiner(job.prompt, image=latents, **options, denoising_start=HANDOVER).images
            return refined
    except (ValueError, IndexError):
        return None


@contextmanager
def _scheduler(pipeline: Any, job: Job) -> Iterator[None]:
    """Give a pipeline the scheduler of `job` inside the block."""
    own = pipeline.scheduler
    pipeline.scheduler = build_scheduler(job.scheduler, own.config, job.preset)
    try:
        yield
    finally:
        pipeline.scheduler = own


def in_company(model: WatchedModel, jobs: Sequence[Job], rng: random.Random) -> dict[str, Any]:
    """Compare every job drawn alone with the same job drawn among the others, with `deterministic`."""
    lonely = alone(model, jobs, deterministic=True)
    company = draw(model, jobs, deterministic=True, rng=rng)
    assert lonely.refused == company.refused
    return {
        "jobs": len(jobs),
        "differing_pixels": differing_pixels(lonely, company),
        "differing_latents": differing_latents(lonely, company),
        "refused": len(company.refused),
        "with_loras": sum(bool(job.loras) for job in jobs),
        "refined": sum(job.request.high_quality for job in jobs),
        "jobs_by_scheduler": dict(Counter(job.request.scheduler for job in jobs)),
        "steps": company.counts.steps,
        "rows_per_step": company.counts.row_steps / max(1, company.counts.steps),
        "preemptions": company.counts.preemptions,
        "merges": model.lora_cache.exchange.merges,
    }


def against_diffusers(model: WatchedModel, jobs: Sequence[Job]) -> dict[str, Any]:
    """Compare every job drawn alone and without padding with diffusers.

    A schedule that one side cannot make must be rejected by the other side too.
    """
    ours = alone(model, jobs, deterministic=False)
    worst = 0.0
    for job in jobs:
        theirs = by_diffusers(model, job)
        assert (theirs is None) == (job.job_id in ours.refused), f"only one side refuses {job}"
        if theirs is not None:
            worst = max(worst, max_abs_diff(ours.drawn[job.job_id].latents, theirs))
    return {
        "diffusers_jobs": len(jobs),
        "diffusers_max_abs_diff": worst,
        "diffusers_refused": len(ours.refused),
        "diffusers_refined": sum(job.request.high_quality for job in jobs),
        "diffusers_jobs_by_scheduler": dict(Counter(job.request.scheduler for job in jobs)),
    }


def max_abs_diff(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest absolute difference: 0 for equal bits.

    It is infinite if shapes or dtypes differ, or if only one side is NaN.
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    difference = (one.double() - other.double()).abs()
    return 0.0 if torch.equal(one, other) else float(difference.nan_to_num(nan=float("inf")).max())


def run(count: int, seed: int, out: Path, *, against: int | None = None) -> dict[str, Any]:
    """Run both comparisons, and write `out/equality.json`.

    Args:
        count: number of jobs that are drawn alone and among others.
        against: number of jobs that are also drawn by diffusers; default: a quarter of `count`, but at least 50.
    """
    began = time.perf_counter()
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        model = load_toy(Path(folder))
        result = in_company(model, random_jobs(count, rng, loras=LORAS), rng)
        result |= against_diffusers(model, random_jobs(against or max(_LEAST_AGAINST_DIFFUSERS, count // 4), rng))
    result |= {
        "seed": seed,
        "versions": {library: version(library) for library in _LIBRARIES},
        "seconds": time.perf_counter() - began,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "equality.json").write_text(json.dumps(result, indent=2) + "\n")
    return result
