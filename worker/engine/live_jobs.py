"""The jobs that the engine has planned and not ended: those that are stepped, and those that wait for their decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.engine.ahead import Ahead
from worker.engine.lora.cache import LoraCache
from worker.engine.planning import JobPlan
from worker.engine.row import Row
from worker.engine.schedule.scheduler import StepScheduler
from worker.engine_interface import EngineHooks
from worker.errors import ErrorCode
from worker.failure import Failure
from worker.job import Job, Lane, Origin
from worker.picture import Picture
from worker.telemetry import metrics


@dataclass(slots=True)
class LiveJob:
    """A job inside the engine; `row` appears with its first step here, after the plan's checkpoint if there is one.

    Its LoRAs are pinned as long as it is here, and the row's acquired as long as there is one.
    """

    job: Job
    plan: JobPlan
    row: Row | None = None
    # The part of its steps that was told last as its progress.
    told: int = -1

    def count_wasted(self) -> None:
        """Count the device time of a job that leaves nothing behind."""
        if self.row is not None:
            metrics.GPU_SECONDS.labels("wasted").inc(self.row.gpu_seconds)


class LiveJobs:
    """Used by the engine's thread, but for `not_begun`.

    A job that leaves is forgotten by the step scheduler and by what is done ahead, and its LoRAs are unpinned.
    """

    def __init__(self, scheduler: StepScheduler, ahead: Ahead, loras: LoraCache, hooks: EngineHooks) -> None:
        self._scheduler = scheduler
        self._ahead = ahead
        self._loras = loras
        self._hooks = hooks
        self.stepping: dict[Origin, LiveJob] = {}
        self.to_decode: dict[Origin, LiveJob] = {}

    def all(self) -> list[tuple[Origin, LiveJob]]:
        """Every job, as a copy, so that jobs may leave while it is gone through."""
        return [*self.stepping.items(), *self.to_decode.items()]

    def not_begun(self) -> list[Job]:
        """The jobs that have had no step."""
        return [live.job for live in list(self.stepping.values()) if live.row is None]

    def lanes_to_decode(self) -> list[Lane]:
        """The lane of each job that waits for its decode."""
        return [live.job.lane for live in self.to_decode.values()]

    def add(self, job: Job, plan: JobPlan) -> None:
        """Keep a job, whose LoRAs are pinned."""
        self.stepping[job.origin] = LiveJob(job, plan)

    def on_denoised(self, origins: Sequence[Origin]) -> None:
        """Jobs have had their last step, so they wait for their decode."""
        for origin in origins:
            self.to_decode[origin] = self.stepping.pop(origin)

    def fail(self, origin: Origin, code: ErrorCode, message: str) -> None:
        """End a job without a picture."""
        live = self.remove(origin)
        live.count_wasted()
        self._hooks.on_failed(Failure.of(live.job, code, message))
        self.unpin_loras(live)

    def complete(self, picture: Picture) -> None:
        """End a job with its picture."""
        live = self.remove(picture.job.origin)
        self._hooks.on_pixels(picture)
        self.unpin_loras(live)

    def remove(self, origin: Origin) -> LiveJob:
        """Take a job out; the caller tells what became of it, and unpins its LoRAs."""
        self._ahead.drop(origin)
        self._scheduler.remove(origin)
        live = self.stepping.pop(origin, None)
        return self.to_decode.pop(origin) if live is None else live

    def unpin_loras(self, live: LiveJob) -> None:
        """Let the LoRAs of a job that has left be unloaded."""
        self._loras.release(live.job.loras)
        if live.row is not None:
            self._loras.release(live.job.loras)
