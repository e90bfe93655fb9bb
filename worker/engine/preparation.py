"""Make rows ready for their next step: encode their prompts, beside the steps where that costs nothing."""

from __future__ import annotations

from collections.abc import Callable

from worker.engine.ahead import Ahead
from worker.engine.live_jobs import LiveJob, LiveJobs
from worker.engine.pipeline import SdxlModel
from worker.engine.row import Row
from worker.errors import RequestRejected
from worker.job import Origin
from worker.telemetry import logs, metrics


class JobEnded(Exception):
    """A job has ended while its row was prepared, so the batch that it was in has to be chosen anew."""


class Preparation:
    """Begins jobs, and hands their rows over to the refiner.

    Args:
        stopwatch: seconds that nobody sets.
    """

    def __init__(self, model: SdxlModel, jobs: LiveJobs, ahead: Ahead, stopwatch: Callable[[], float]) -> None:
        self._model = model
        self._jobs = jobs
        self._ahead = ahead
        self._stopwatch = stopwatch

    def row(self, origin: Origin, now: float) -> Row:
        """The row of a job, ready for its next step.

        Args:
            now: the time of day at which the job begins, if it has not.

        Raises:
            JobEnded: its request was rejected.
            torch.OutOfMemoryError: an allocation failed.
        """
        live = self._jobs.stepping[origin]
        before, ahead = self._stopwatch(), 0.0
        try:
            if live.row is not None and not live.row.sampler.over:
                return live.row
            # What is encoded now, or was for others, may be what is encoded beside.
            ahead = self._ahead.take(origin)
            if live.row is None:
                live.row = self._begin(live, now)
            # At once where there is no timestep above the cut, so that the base has no step at all.
            if live.row.sampler.over:
                self._model.hand_over(live.row)
        except RequestRejected as error:
            self._jobs.fail(origin, error.code, error.message)
            raise JobEnded from error
        seconds = self._stopwatch() - before + ahead
        live.row.gpu_seconds += seconds
        # Of the first stage; the refiner's own encoding falls among the steps.
        live.row.text_seconds = live.row.text_seconds or seconds
        metrics.PHASE.labels("encode_text").observe(seconds)
        return live.row

    def encode_ahead(self) -> None:
        """Encode the prompts of one job that waits, while a step runs."""
        if not self._ahead.overlaps:
            return
        new = [job for job in self._jobs.not_begun() if not self._ahead.has_encoded(job.origin)]
        if new:
            self._ahead.encode(min(new, key=lambda job: job.lane))

    def _begin(self, live: LiveJob, now: float) -> Row:
        with logs.within(logs.about(live.job)):
            if live.plan.checkpoint is None:
                return self._model.prepare(live.job, now)
            return self._model.resume(live.job, now, live.plan.checkpoint)
