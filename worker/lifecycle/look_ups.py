"""In the pool, before a job is drawn or given up: is there a picture of it in the store already?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from worker.delivery.finish import Finisher, IdReused
from worker.delivery.retry_queue import RetryQueue
from worker.errors import ErrorCode, RequestRejected
from worker.events.types import GenerationCompleted, GenerationRequest
from worker.failure import Failure
from worker.intake.jobs_in_hand import JobsInHand
from worker.job import Job
from worker.lifecycle.endings import Endings
from worker.lifecycle.ownership import Ownership
from worker.telemetry import logs, metrics
from worker.threads import Threads


class LookUps:
    """Any thread may call it; S3 is asked in the pool, again and again while it does not answer.

    Args:
        queue_start: gets a job that has no picture yet.
    """

    def __init__(
        self,
        retry_queue: RetryQueue,
        finisher: Finisher,
        in_hand: JobsInHand,
        ownership: Ownership,
        endings: Endings,
        threads: Threads,
        *,
        queue_start: Callable[[Job], None],
    ) -> None:
        self._retry_queue = retry_queue
        self._finisher = finisher
        self._in_hand = in_hand
        self._ownership = ownership
        self._endings = endings
        self._threads = threads
        self._queue_start = queue_start

    def look_up(self, job: Job) -> None:
        """Answer a repeated job id from S3, without touching the GPU, or let the job be drawn."""
        self._retry_queue.add(job.lane, lambda: self._find_stored(job), logs.about(job))

    def give_up(self, job: Job, starts: int) -> None:
        """End a job that took the process down `starts` times, which is too often.

        Its picture may be in the store, where the process died before its outcome was durable.
        """
        self._retry_queue.add(job.lane, lambda: self._end_crash_loop(job, starts), logs.about(job))

    def reject(self, failure: Failure) -> None:
        """End a request that was not admitted. Where its id is that of a picture, the picture's status has to stay."""
        self._retry_queue.add(failure.lane, lambda: self._end_rejected(failure), logs.about(failure))

    # In the pool. Each returns False where S3 was not asked.

    def _find_stored(self, job: Job) -> bool:
        if not self._ownership.is_wanted(job.origin):
            self._endings.release(job.origin)
            return False
        began = self._threads.monotonic()
        try:
            event = self._finisher.stored(job, self._threads.now())
            picture = None if event is not None else self._picture_of_another_girl(job.request)
            metrics.PHASE.labels("look_up").observe(self._threads.monotonic() - began)
            if picture is not None:
                raise IdReused(picture)
        except IdReused as error:
            self._endings.refuse(Failure.of(job, error.code, error.message), error.picture)
            return True
        except RequestRejected as error:
            self._endings.fail(Failure.of(job, error.code, error.message))
            return True
        if event is None:
            self._queue_start(self._finisher.with_checkpoint(job))
        else:
            metrics.REPUBLISHED.inc()
            self._endings.complete(job, event)
        return True

    def _end_crash_loop(self, job: Job, starts: int) -> bool:
        if not self._ownership.is_owned(job.origin):
            self._endings.release(job.origin)
            return False
        try:
            event = self._finisher.stored(job, self._threads.now())
        except RequestRejected:
            event = None
        if event is not None:
            metrics.REPUBLISHED.inc()
            self._endings.complete(job, event)
            return True
        metrics.CRASH_LOOPS.inc()
        message = f"the worker's process died {starts} times while it worked on this request"
        return self._end_rejected(replace(Failure.of(job, ErrorCode.CRASH_LOOP, message), attempt=starts))

    def _end_rejected(self, failure: Failure) -> bool:
        if not self._ownership.is_owned(failure.origin):
            self._endings.release(failure.origin)
            return False
        request = failure.request
        try:
            picture = self._finisher.picture_of(request.girl_id, request.job_id, self._threads.now())
            picture = picture or self._picture_of_another_girl(request)
        except RequestRejected:
            # S3 takes no such key, so there is no picture.
            picture = None
        if picture is None:
            self._endings.fail(failure)
        else:
            self._endings.refuse(failure, picture)
        return True

    def _picture_of_another_girl(self, request: GenerationRequest) -> GenerationCompleted | None:
        girl_id = self._in_hand.girl_of(request.job_id)
        if girl_id is None or girl_id == request.girl_id:
            return None
        return self._finisher.picture_of(girl_id, request.job_id, self._threads.now())
