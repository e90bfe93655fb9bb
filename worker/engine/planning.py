"""What a job that has come is going to need: its segments, the size of its calls, and where it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from worker.call_sizes import CallSizes
from worker.engine.checkpoint import Checkpoint
from worker.engine.compiled.fast_path import FastPath
from worker.engine.pipeline import SdxlModel
from worker.engine.schedule.rows import Segment
from worker.engine.schedule.scheduler import StepScheduler
from worker.errors import ErrorCode, RequestRejected
from worker.job import Job
from worker.telemetry import logs, metrics

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class JobPlan:
    """How a job is drawn.

    Args:
        steps: all of its steps, those that its checkpoint has done included.
        left: the segments that are left to do.
        compiled: its steps run on the fast path.
        checkpoint: where it goes on; None: it begins.
    """

    steps: int
    left: Sequence[Segment]
    compiled: bool
    checkpoint: Checkpoint | None


class Planner:
    """Plans jobs, and refuses those that would be too late.

    Args:
        calls: the size that every UNet call is padded to, by job; None: calls are not padded.
        clock: the time of day, by which deadlines count.
    """

    def __init__(
        self,
        model: SdxlModel,
        scheduler: StepScheduler,
        fast: FastPath,
        calls: CallSizes | None,
        clock: Callable[[], float],
    ) -> None:
        self._model = model
        self._scheduler = scheduler
        self._fast = fast
        self._calls = calls
        self._clock = clock

    def plan(self, job: Job) -> JobPlan:
        """Plan a job whose LoRAs are pinned.

        Raises:
            RequestRejected: the model cannot draw it, or its `expires_at` cannot be met.
        """
        segments, compiled = self._sized(job, self._model.segments(job))
        checkpoint, left = self._go_on(job, segments, compiled)
        self._refuse_if_too_late(job, left)
        return JobPlan(sum(segment.steps for segment in segments), left, compiled, checkpoint)

    def _sized(self, job: Job, segments: Sequence[Segment]) -> tuple[Sequence[Segment], bool]:
        """`segments` with the size of the calls that `job` is drawn with, and whether those are compiled ones."""
        if self._calls is None:
            return segments, False
        samples = self._calls.of(job)
        groups = [replace(segment.group, samples=samples) for segment in segments]
        compiled = self._fast.draws(job, groups)
        sized = zip(segments, groups, strict=True)
        return [replace(one, group=replace(group, compiled=compiled)) for one, group in sized], compiled

    def _go_on(
        self, job: Job, segments: Sequence[Segment], compiled: bool
    ) -> tuple[Checkpoint | None, Sequence[Segment]]:
        """The checkpoint that `job` brought, and what is left to do after it; one that is of no use is told."""
        if job.checkpoint is None:
            return None, segments
        try:
            checkpoint = Checkpoint(job.checkpoint)
            left = checkpoint.segments_left(segments)
            self._model.check(checkpoint, job)
            if checkpoint.facts.compiled != compiled:
                raise ValueError("begun with compiled steps here and eager ones there, or the reverse")
        except ValueError as error:
            _log.warning("checkpoint_unusable", **logs.about(job), error=str(error))
            return None, segments
        metrics.RESUMED_STEPS.inc(checkpoint.facts.steps_done)
        _log.info("job_resumed", **logs.about(job), steps_done=checkpoint.facts.steps_done)
        return checkpoint, left

    def _refuse_if_too_late(self, job: Job, segments: Sequence[Segment]) -> None:
        if job.expires_at is None:
            return
        needed, left = self._scheduler.shortest(job.lane, segments), job.expires_at - self._clock()
        if needed > left:
            if left > 0:
                # A job that is not drawn gives no measurement that would correct a bound from a bad time.
                for segment in segments:
                    self._scheduler.cost.doubt(segment.group)
            raise RequestRejected(
                ErrorCode.EXPIRED,
                f"expires_at cannot be met: the picture needs at least {needed:.1f} s from now",
            )
