"""Measure the time of a step outside the UNet: the engine's with a full batch, and that of diffusers' own loop.

The measured time is from the end of one UNet call to the beginning of the next, while the steps of one picture or batch
run. `step_overhead_*` compares equivalent work: the denoising step (`Denoiser.step`: input, guidance, update) with the
loop of `pipeline.__call__`. `tick_overhead_*` is the engine's whole tick, which includes intake, scheduling,
bookkeeping and metrics that a pipeline does not have. The UNet really runs in between, so that caches are as cold as in
production.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from devtools.bench.jobs import call_sizes
from devtools.bench.schedule.simulate import PROMPT, SIDE_PX, STEPS, bench_job
from devtools.bench.schedule.traffic import Arrival
from worker.engine.cost import Stage
from worker.engine.denoise import Denoiser
from worker.engine.loop import StepEngine
from worker.engine.pipeline import SdxlModel
from worker.engine.samplers import make_scheduler
from worker.engine.schedule.policy import Policy
from worker.engine.schedule.scheduler import StepScheduler
from worker.engine_interface import EngineHooks
from worker.job import SCHEDULERS, Lane

_QUEUED = 8


class _Stopwatch:
    """Records when each UNet call begins and ends."""

    def __init__(self) -> None:
        self._calls: list[tuple[float, float]] = []

    @contextmanager
    def on(self, unet: Any) -> Iterator[None]:
        inner = unet.forward

        def forward(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = inner(*args, **options)
            self._calls.append((began, time.perf_counter()))
            return result

        unet.forward = forward
        try:
            yield
        finally:
            del unet.forward

    def take_gaps(self) -> list[float]:
        """Return the gaps between the recorded calls in µs, and forget the calls."""
        calls, self._calls = self._calls, []
        return [1e6 * (after[0] - before[1]) for before, after in pairwise(calls)]


def measure(base: Any, *, slots: int, rounds: int) -> dict[str, float]:
    """Return medians in µs over all steps of `rounds` rounds; each round runs every variant, the first is a warm-up."""
    model = SdxlModel(base)
    ways: dict[str, Callable[[], None]] = {
        "diffusers_us_per_step": lambda: _diffusers(base, 1),
        "diffusers_batch_us_per_step": lambda: _diffusers(base, slots),
        "engine_us_per_step": lambda: _engine(model, slots, 0),
        "engine_queue_us_per_step": lambda: _engine(model, slots, _QUEUED),
        "denoiser_us_per_step": lambda: _denoiser(model, slots),
    }
    gaps: dict[str, list[float]] = {name: [] for name in ways}
    stopwatch = _Stopwatch()
    own_scheduler, base.scheduler = base.scheduler, make_scheduler(SCHEDULERS[0], base.scheduler.config)
    try:
        with stopwatch.on(base.unet):
            for turn in range(rounds + 1):
                for name, way in ways.items():
                    way()
                    found = stopwatch.take_gaps()
                    gaps[name] += found if turn else []
    finally:
        base.scheduler = own_scheduler
    return {name: median(found) for name, found in gaps.items()}


def headline(us: dict[str, float], slots: int) -> dict[str, float]:
    """Return the overhead per row and step relative to diffusers' with one picture, and to diffusers' in a batch."""
    alone, batch = us["diffusers_us_per_step"], us["diffusers_batch_us_per_step"] / slots
    ratios = {}
    for name, key in (("step", "denoiser_us_per_step"), ("tick", "engine_us_per_step")):
        ours = us[key] / slots
        ratios[f"{name}_overhead_over_diffusers"] = ours / alone
        ratios[f"{name}_overhead_over_diffusers_batch"] = ours / batch
    return ratios


def _diffusers(base: Any, pictures: int) -> None:
    base(
        [PROMPT] * pictures,
        height=SIDE_PX,
        width=SIDE_PX,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        output_type="latent",
    )


def _engine(model: SdxlModel, rows: int, queued: int) -> None:
    scheduler = StepScheduler(Policy())
    hooks = EngineHooks(on_pixels=lambda _: None, on_failed=lambda _: None)
    engine = StepEngine(model, scheduler, hooks, time.time, calls=call_sizes(rows))
    for index in range(rows + queued):
        engine.submit(bench_job(index, Arrival(time.time(), Lane.NORMAL)))
    for _ in range(STEPS):
        engine.tick()


def _denoiser(model: SdxlModel, rows: int) -> None:
    with torch.inference_mode():
        batch = [model.prepare(bench_job(index, Arrival(0.0, Lane.NORMAL)), 0.0) for index in range(rows)]
        denoiser = Denoiser(model.unet(Stage.BASE), model.lora_cache)
        for _ in range(STEPS):
            denoiser.step(batch, 2 * rows)
