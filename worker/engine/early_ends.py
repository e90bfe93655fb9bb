"""Jobs that leave the engine before their picture is done: cancelled, expired, or released."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from worker.engine.checkpoint import dump
from worker.engine.live_jobs import LiveJob, LiveJobs
from worker.engine.lora.arrivals import Arrivals
from worker.engine.lora.cache import LoraCache
from worker.engine_interface import EngineHooks
from worker.errors import ErrorCode
from worker.failure import Failure
from worker.job import Job, Origin


class EarlyEnds:
    """Ends jobs wherever they are in the engine, between two steps.

    Args:
        checkpoints: release started jobs with a checkpoint where one can be made.
    """

    def __init__(
        self, jobs: LiveJobs, arrivals: Arrivals, loras: LoraCache, hooks: EngineHooks, *, checkpoints: bool
    ) -> None:
        self._jobs = jobs
        self._arrivals = arrivals
        self._loras = loras
        self._hooks = hooks
        self._checkpoints = checkpoints

    def cancel(self, job_id: str, code: ErrorCode, message: str) -> None:
        """Fail the job of this id; an unknown one is ignored."""
        for origin, live in self._jobs.all():
            if live.job.job_id == job_id:
                self._jobs.fail(origin, code, message)
        for job in self._arrivals.jobs:
            if job.job_id == job_id:
                self._fail_arrival(job, code, message)

    def expire(self, now: float) -> None:
        """Fail the jobs whose `expires_at`, in seconds since the epoch, has passed."""
        for origin, live in self._jobs.all():
            if live.job.expires_at is not None and now > live.job.expires_at:
                self._jobs.fail(origin, ErrorCode.EXPIRED, "expires_at passed before the picture was done")
        for job in self._arrivals.jobs:
            if job.expires_at is not None and now > job.expires_at:
                self._fail_arrival(job, ErrorCode.EXPIRED, "expires_at passed before the picture was begun")

    def release(self, keep: Callable[[Origin], bool], *, started: bool) -> None:
        """Release jobs whose origin is not to be kept: those that have not started, or with `started` all of them."""
        for origin, live in self._jobs.all():
            if keep(origin) or (live.row is not None and not started):
                continue
            self._jobs.remove(origin)
            job = self._with_checkpoint(live)
            if job.checkpoint is None:
                live.count_wasted()
            self._jobs.unpin_loras(live)
            self._hooks.on_released(job)
        for job in self._arrivals.jobs:
            if not keep(job.origin):
                self._arrivals.remove(job.origin)
                self._hooks.on_released(job)

    def _fail_arrival(self, job: Job, code: ErrorCode, message: str) -> None:
        self._arrivals.remove(job.origin)
        self._hooks.on_failed(Failure.of(job, code, message))

    def _with_checkpoint(self, live: LiveJob) -> Job:
        if not self._checkpoints or live.row is None or live.row.steps_done == live.plan.steps:
            return live.job
        loras = self._loras.fingerprints(live.job.loras)
        return replace(live.job, checkpoint=dump(live.row, loras, compiled=live.plan.compiled))
