"""What the engine does when an allocation has failed: climb the memory ladder, or fail the job that does not fit."""

from __future__ import annotations

from collections.abc import Sequence

from worker.engine.ahead import Ahead
from worker.engine.live_jobs import LiveJobs
from worker.engine.memory import MemoryLadder
from worker.engine.schedule.scheduler import StepScheduler
from worker.engine.unet_step import UNetStep
from worker.errors import ErrorCode
from worker.job import Origin
from worker.telemetry import metrics


class MemoryRelief:
    """Moves the engine along the ladder, and the scheduler's batch size with it."""

    def __init__(
        self, ladder: MemoryLadder, scheduler: StepScheduler, unet_step: UNetStep, ahead: Ahead, jobs: LiveJobs
    ) -> None:
        self._ladder = ladder
        self._scheduler = scheduler
        self._unet_step = unet_step
        self._ahead = ahead
        self._jobs = jobs

    def relieve(self, batch: Sequence[Origin], *, rows: int, decoding: bool) -> None:
        """Free memory for another try of the same rows; only a job that fails alone fails.

        To be called once the error is no longer handled: while it is, it keeps alive the tensors of every frame that it
        went through.

        Args:
            rows: those that the step may have had that failed.
            decoding: whether it failed in a decode.
        """
        # What is freed may be in use beside the steps.
        self._ahead.join()
        self._unet_step.forget()
        if not self._ladder.climb(rows=rows, decoding=decoding):
            [origin] = batch
            message = "the GPU has too little memory for this picture alone: ask for a smaller size"
            self._jobs.fail(origin, ErrorCode.OUT_OF_MEMORY, message)
            # It was this one that did not fit; the others need not suffer for it.
            self._ladder.reset()
        self._resize()

    def reset(self) -> None:
        """Come down the ladder, for there is nothing to do."""
        if self._ladder.rung:
            self._ladder.reset()
            self._resize()

    def _resize(self) -> None:
        """Give the scheduler the batch size of the ladder's rung."""
        metrics.MEMORY_RUNG.set(self._ladder.rung)
        self._scheduler.resize(self._ladder.rows_max)
        self._unet_step.forget()
