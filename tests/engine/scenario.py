"""Jobs for the toy SDXL, an engine with a clock of its own, and the results that it reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from devtools.bench.jobs import call_sizes
from worker.engine.accelerator import Accelerator
from worker.engine.compiled.fast_path import FastPath
from worker.engine.loop import StepEngine
from worker.engine.pipeline import SdxlModel
from worker.engine.schedule.policy import Policy
from worker.engine.schedule.scheduler import StepScheduler
from worker.engine_interface import EngineHooks
from worker.errors import ErrorCode
from worker.events.types import GenerationRequest
from worker.failure import Failure
from worker.job import Job, Lane, Origin
from worker.picture import Picture

SLOTS = 4
SIDE_PX = 64


def make_job(
    job_id: str,
    *,
    lane: Lane = Lane.NORMAL,
    steps: int = 4,
    guidance: float = 1.0,
    seed: int = 7,
    refined: bool = False,
    scheduler: str = "DPMSolverMultistepScheduler",
    loras: Sequence[tuple[str, float]] = (),
    prompt: str = "a cat",
    height: int = SIDE_PX,
    expires_at: float | None = None,
) -> Job:
    request = GenerationRequest(
        job_id=job_id,
        girl_id="girl",
        user_id=1,
        prompt=prompt,
        num_inference_steps=steps,
        guidance_scale=guidance,
        high_quality=refined,
        scheduler=scheduler,
        width=SIDE_PX,
        height=height,
    )
    return Job(
        request=request,
        lane=lane,
        origin=Origin(job_id, 0, 0, 0),
        seed=seed,
        loras=tuple(loras),
        prompt=prompt,
        negative_prompt=None,
        attempt=1,
        requested_at=0.0,
        received_at=0.0,
        expires_at=expires_at,
    )


@dataclass(slots=True)
class Stage:
    """An engine and all that it told; the clock stands still until a test moves it."""

    engine: StepEngine
    scheduler: StepScheduler
    pictures: dict[str, Picture] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    progress: list[tuple[str, int, int]] = field(default_factory=list)
    released: list[Job] = field(default_factory=list)
    now: float = 0.0

    def run(self, *jobs: Job) -> Stage:
        """Submit `jobs` and tick until nothing is left to do."""
        self.submit(*jobs)
        while self.engine.tick():
            pass
        return self

    def submit(self, *jobs: Job) -> None:
        for job in jobs:
            self.engine.submit(job)

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            assert self.engine.tick()

    @property
    def released_ids(self) -> list[str]:
        return [job.job_id for job in self.released]

    def codes(self) -> dict[str, ErrorCode]:
        return {job_id: failure.code for job_id, failure in self.failures.items()}

    def ended(self, result: Picture | Failure) -> None:
        job_id = result.job.job_id if isinstance(result, Picture) else result.request.job_id
        self.outcomes[job_id] += 1
        if isinstance(result, Picture):
            self.pictures[job_id] = result
        else:
            self.failures[job_id] = result


def stage(
    model: SdxlModel,
    *,
    deterministic: bool = True,
    slots: int = SLOTS,
    fast: FastPath | None = None,
    accelerator: Accelerator | None = None,
    checkpoints: bool = False,
    clock: Callable[[], float] | None = None,
) -> Stage:
    holder: list[Stage] = []
    hooks = EngineHooks(
        on_progress=lambda job, done, steps: holder[0].progress.append((job.job_id, done, steps)),
        on_pixels=lambda picture: holder[0].ended(picture),
        on_failed=lambda failure: holder[0].ended(failure),
        on_released=lambda job: holder[0].released.append(job),
    )
    scheduler = StepScheduler(Policy(rows_max=slots))
    clock = clock or (lambda: holder[0].now)
    calls = call_sizes(slots) if deterministic else None
    engine = StepEngine(
        model, scheduler, hooks, clock, calls=calls, fast=fast, accelerator=accelerator, checkpoints=checkpoints
    )
    holder.append(Stage(engine, scheduler))
    return holder[0]
