"""Draw jobs with the real engine: each alone, or together with others that arrive at random."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from devtools.bench.equality.jobs import write_loras
from devtools.models.tiny import write_tiny
from worker.call_sizes import CallSizes
from worker.engine.loop import StepEngine
from worker.engine.pipeline import SdxlModel
from worker.engine.row import Row
from worker.engine.schedule.policy import Policy
from worker.engine.schedule.scheduler import Counts, StepScheduler
from worker.engine_interface import EngineHooks
from worker.errors import ErrorCode
from worker.failure import Failure
from worker.job import Job
from worker.models.load import load_base, load_refiner
from worker.picture import Picture

# What a worker on a CPU has: several rows a call for the smallest pictures, one for the others.
CALLS = CallSizes("cpu", "float32")
ROWS_UNPADDED = 4
_ARRIVALS_PER_STEP = 0.4
# Every reading of the clock advances it by this time, so that waiting lanes sometimes exceed their bounds.
_TICK_S = 0.01


@dataclass(slots=True)
class Drawn:
    """One picture: its pixels, and the latents that they were decoded from."""

    pixels: npt.NDArray[np.uint8]
    latents: torch.Tensor


@dataclass(slots=True)
class Drawing:
    """The pictures of some jobs, by job id; `refused` holds the jobs whose schedule cannot be made."""

    drawn: dict[str, Drawn] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    counts: Counts = field(default_factory=Counts)


@dataclass(slots=True)
class WatchedModel(SdxlModel):
    """A model that keeps the latents of every picture that it decodes, by job id."""

    seen: dict[str, torch.Tensor] = field(default_factory=dict)

    def decode(self, row: Row) -> npt.NDArray[np.uint8]:
        """Keep the row's latents, and decode them."""
        self.seen[row.job.job_id] = row.latents.clone()
        return SdxlModel.decode(self, row)


def load_toy(folder: Path, dtype: torch.dtype = torch.float32) -> WatchedModel:
    """Write the toy SDXL and its LoRAs below `folder`, and load them."""
    write_tiny(folder)
    base = load_base(str(folder / "base"), dtype=dtype, device="cpu")
    refiner = load_refiner(str(folder / "refiner"), dtype=dtype, device="cpu", share=base)
    loras = folder / "loras"
    loras.mkdir(exist_ok=True)
    write_loras(loras, base)
    return WatchedModel(base, refiner, lora_dir=loras)


def draw(model: WatchedModel, jobs: Sequence[Job], *, deterministic: bool, rng: random.Random | None = None) -> Drawing:
    """Run `jobs` through a new engine: all submitted at once or, with `rng`, arriving at random in random order."""
    drawing = Drawing()

    def end(result: Picture | Failure) -> None:
        if isinstance(result, Picture):
            job_id = result.job.job_id
            drawing.drawn[job_id] = Drawn(result.pixels, model.seen.pop(job_id))
        else:
            # Only a schedule that cannot be made is expected; any other failure is an error.
            assert result.code is ErrorCode.INVALID_REQUEST, result
            drawing.refused.add(result.request.job_id)

    scheduler = StepScheduler(Policy() if deterministic else Policy(rows_max=ROWS_UNPADDED))
    clock = count(0.0, _TICK_S).__next__
    hooks = EngineHooks(on_pixels=end, on_failed=end)
    engine = StepEngine(model, scheduler, hooks, clock, calls=CALLS if deterministic else None)
    arrivals = _arrivals(jobs, rng)
    while True:
        arrived = next(arrivals, None)
        for job in arrived or ():
            engine.submit(job)
        if not engine.tick() and arrived is None:
            break
    drawing.counts = scheduler.counts
    return drawing


def _arrivals(jobs: Sequence[Job], rng: random.Random | None) -> Iterator[list[Job]]:
    """Yield the jobs that arrive before each tick."""
    if rng is None:
        yield list(jobs)
        return
    waiting = rng.sample(jobs, len(jobs))
    while waiting:
        some = []
        while waiting and rng.random() < _ARRIVALS_PER_STEP:
            some.append(waiting.pop())
        yield some


def alone(model: WatchedModel, jobs: Sequence[Job], *, deterministic: bool) -> Drawing:
    """Run every job through an engine of its own."""
    whole = Drawing()
    for job in jobs:
        one = draw(model, [job], deterministic=deterministic)
        whole.drawn |= one.drawn
        whole.refused |= one.refused
    return whole
