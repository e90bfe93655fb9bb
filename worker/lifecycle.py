"""The way of a job between the rooms, in order: what each room hands to the next, and how a job is released.

read → gate → look up a stored result → start queue → record the start → engine → encode and upload → publish
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from worker.delivery.finish import Finisher, IdReused
from worker.delivery.messages import MessageWriter
from worker.delivery.publish import Publisher, PublisherHooks, Start, Touch
from worker.delivery.retry_queue import RetryQueue
from worker.errors import ErrorCode, RequestRejected, StoreUnavailable
from worker.events.types import GenerationCompleted, GenerationRequest, JobStatus
from worker.intake.gate import Gate
from worker.intake.jobs_in_hand import JobsInHand
from worker.intake.ledger import Ledger
from worker.intake.ledger import TopicPartition as Key
from worker.intake.start_queue import StartQueue, is_lone
from worker.job import EngineHooks, Failure, Job, MakeEngine, Notice, Origin, Original, Outcome, Picture, Room
from worker.poll_waits import PollWaits
from worker.telemetry import logs, metrics
from worker.telemetry.job_log import JobLog
from worker.threads import Threads

_log = structlog.get_logger()

MakePublisher = Callable[[PublisherHooks], Publisher]


class Lifecycle:
    """Hands jobs from room to room. Any thread may call it.

    Every method returns at once but `release_partitions`, `release_running` and `wait_for_flush`, which belong to the
    poll thread and whose waits are bounded (`poll_waits`).

    Args:
        make_engine: makes the engine around the hooks that it has to call.
        make_publisher: likewise the publisher.
        cancellation_of: says why a job is cancelled, or None.
        wait_bounds_s: the waits by lane beyond which a lane is owed a share of the steps.
    """

    def __init__(
        self,
        ledger: Ledger,
        retry_queue: RetryQueue,
        finisher: Finisher,
        messages: MessageWriter,
        job_log: JobLog,
        threads: Threads,
        waits: PollWaits,
        *,
        make_engine: MakeEngine,
        make_publisher: MakePublisher,
        cancellation_of: Callable[[Job], str | None],
        crash_loop_limit: int,
        revoke_timeout_s: float,
        wait_bounds_s: tuple[float, float, float],
    ) -> None:
        self._ledger = ledger
        self._retry_queue = retry_queue
        self._finisher = finisher
        self._messages = messages
        self._job_log = job_log
        self._threads = threads
        self._waits = waits
        self._cancellation_of = cancellation_of
        self._crash_loop_limit = crash_loop_limit
        self._revoke_timeout_s = revoke_timeout_s
        self._gate = Gate()
        self._starts = StartQueue(wait_bounds_s)
        self._in_hand = JobsInHand()
        self.publisher = make_publisher(
            PublisherHooks(
                on_started=self.on_started, on_committed=self.on_committed, on_not_owned=self._release_origin
            )
        )
        self.engine = make_engine(
            EngineHooks(
                on_progress=self.on_progress,
                on_pixels=self.on_pixels,
                on_failed=self.on_failed,
                on_released=self.on_released,
                on_room=self.on_room,
            )
        )

    # From intake.

    def on_undecodable(self, origin: Origin, original: Original, error: str) -> None:
        """A record is no request: it goes to the dead-letter topic."""
        metrics.DEAD_LETTERS.inc()
        _log.warning("dead_letter", **logs.about_record(origin, original.key, original.headers), error=error)
        self._enqueue(self._messages.dead_letter(origin, original, error))

    def commit_soon(self, partition: Key) -> None:
        """The offset to commit has moved, and perhaps no outcome is to come that would commit it."""
        self.publisher.enqueue(Touch((partition,), at_once=False), self._threads.monotonic())

    def on_admitted(self, job: Job, starts: int) -> None:
        """A request was admitted; `starts` counts its earlier starts that never ended."""
        job = replace(self._job_log.on_admitted(job), attempt=starts + 1)
        if starts >= self._crash_loop_limit:
            self._retry_queue.add(job.lane, lambda: self._give_up(job, starts), logs.about(job))
            return
        self._enqueue(self._messages.progress(job, JobStatus.QUEUED, self._threads.now()))
        with self._ledger.lock:
            may_go = self._gate.enter(job)
        if may_go:
            self._look_up(job)

    def on_rejected(self, failure: Failure) -> None:
        """A request was not admitted. Where its id is that of a picture, the picture's status has to stay."""
        self._retry_queue.add(failure.lane, lambda: self._reject(failure), logs.about(failure))

    # In the pool: is the picture in the store already?

    def _look_up(self, job: Job) -> None:
        self._retry_queue.add(job.lane, lambda: self._find_stored(job), logs.about(job))

    def _find_stored(self, job: Job) -> bool:
        """Answer a repeated job id from S3, without touching the GPU; False where S3 was not asked."""
        if not self._is_wanted(job.origin):
            self._release_origin(job.origin)
            return False
        began = self._threads.monotonic()
        try:
            event = self._finisher.stored(job, self._threads.now())
            picture = None if event is not None else self._picture_of_another_girl(job.request)
            metrics.PHASE.labels("look_up").observe(self._threads.monotonic() - began)
            if picture is not None:
                raise IdReused(picture)
        except IdReused as error:
            self._refuse(Failure.of(job, error.code, error.message), error.picture)
            return True
        except RequestRejected as error:
            self.on_failed(Failure.of(job, error.code, error.message))
            return True
        if event is None:
            self._queue_start(self._finisher.with_checkpoint(job))
        else:
            metrics.REPUBLISHED.inc()
            self._on_stored(job, event)
        return True

    def _give_up(self, job: Job, starts: int) -> bool:
        """End a job that took the process down too often; False where S3 was not asked.

        Its picture may be in the store, where the process died before its outcome was durable.
        """
        if not self._is_owned(job.origin):
            self._release_origin(job.origin)
            return False
        try:
            event = self._finisher.stored(job, self._threads.now())
        except RequestRejected:
            event = None
        if event is not None:
            metrics.REPUBLISHED.inc()
            self._on_stored(job, event)
            return True
        metrics.CRASH_LOOPS.inc()
        message = f"the worker's process died {starts} times while it worked on this request"
        return self._reject(replace(Failure.of(job, ErrorCode.CRASH_LOOP, message), attempt=starts))

    def _reject(self, failure: Failure) -> bool:
        """End a request that was not admitted; False where S3 was not asked."""
        if not self._is_owned(failure.origin):
            self._release_origin(failure.origin)
            return False
        request = failure.request
        try:
            picture = self._finisher.picture_of(request.girl_id, request.job_id, self._threads.now())
            picture = picture or self._picture_of_another_girl(request)
        except RequestRejected:
            # S3 takes no such key, so there is no picture.
            picture = None
        if picture is None:
            self.on_failed(failure)
        else:
            self._refuse(failure, picture)
        return True

    def _picture_of_another_girl(self, request: GenerationRequest) -> GenerationCompleted | None:
        girl_id = self._in_hand.girl_of(request.job_id)
        if girl_id is None or girl_id == request.girl_id:
            return None
        return self._finisher.picture_of(girl_id, request.job_id, self._threads.now())

    # In the start queue, until the engine has room.

    def on_room(self, room: Room) -> None:
        """The engine tells its room, at every tick."""
        now = self._threads.now()
        with self._ledger.lock:
            self._starts.room = room
            expired = self._starts.expired(now)
        for job in expired:
            self._end_queued(job, ErrorCode.EXPIRED, "expires_at passed before the picture was begun")
        self._record_starts()

    def _queue_start(self, job: Job) -> None:
        with self._ledger.lock:
            self._starts.add(job, alone=is_lone(job.attempt - 1, self._crash_loop_limit))
        # Both may have come while S3 was asked.
        self._cancel_queued(job.job_id)
        if not self._is_wanted(job.origin):
            self._release_waiting()
        self._record_starts()

    def _record_starts(self) -> None:
        with self._ledger.lock:
            jobs = self._starts.next(self._threads.now())
        for job in jobs:
            self.publisher.enqueue(Start(job), self._threads.monotonic())

    def _cancel_queued(self, job_id: str) -> None:
        with self._ledger.lock:
            queued = [job for job in self._starts.waiting() if job.job_id == job_id]
        for job in queued:
            reason = self._cancellation_of(job)
            if reason is not None:
                self._end_queued(job, ErrorCode.CANCELLED, reason)

    def _end_queued(self, job: Job, code: ErrorCode, reason: str) -> None:
        """Fail a job, unless its start was recorded meanwhile."""
        with self._ledger.lock:
            was_queued = self._starts.withdraw(job.origin)
        if was_queued:
            self.on_failed(Failure.of(job, code, reason))

    # From the publisher: the start is durable.

    def on_started(self, job: Job, attempt: int) -> None:
        """The start is durable, so the job may go to the GPU."""
        if not self._is_wanted(job.origin):
            self._release_origin(job.origin)
            return
        job = replace(job, attempt=attempt)
        reason = self._cancellation_of(job)
        if reason is None:
            self._job_log.on_started(job)
            self._in_hand.enter(job)
            self.engine.submit(job)
            # It may have come between the question and the submission.
            self.cancel(job.job_id)
        else:
            self.on_failed(Failure.of(job, ErrorCode.CANCELLED, reason))

    # From the engine.

    def on_progress(self, job: Job, step: int, _steps: int) -> None:
        """A job has come as far as `step`."""
        self._enqueue(self._messages.progress(job, JobStatus.RUNNING, self._threads.now(), step))

    def on_pixels(self, picture: Picture) -> None:
        """The GPU is done with a job."""
        job = picture.job
        with self._ledger.lock:
            self._starts.drawn(job.origin)
        self._job_log.on_pixels(picture)
        metrics.DURATION.labels(job.lane.label).observe(picture.timing.generation)
        metrics.WAIT.labels(job.lane.label).observe(picture.timing.queue)
        self._retry_queue.add(job.lane, lambda: self._store(picture), logs.about(job), writes=True)

    def on_failed(self, failure: Failure) -> None:
        """A request has ended without a picture; the pool calls this too."""
        metrics.ERRORS.labels(failure.lane.label, failure.code.value).inc()
        now = self._threads.now()
        self._enqueue_outcome(self._messages.failed(self._job_log.on_failed(failure, now), now))

    def _refuse(self, failure: Failure, picture: GenerationCompleted) -> None:
        """A request has ended without a picture, and its id is that of one."""
        metrics.ERRORS.labels(failure.lane.label, failure.code.value).inc()
        now = self._threads.now()
        self._enqueue_outcome(self._messages.refused(self._job_log.on_failed(failure, now), picture, now))

    def on_released(self, job: Job) -> None:
        """The engine has released a job whose record is not ours any more, or will not be soon."""
        if job.checkpoint is not None and self._is_owned(job.origin):
            self._retry_queue.add(job.lane, lambda: self._store_checkpoint(job), logs.about(job), writes=True)
        else:
            self._release_origin(job.origin)

    # In the pool: encode and upload.

    def _store(self, picture: Picture) -> bool:
        """Make a picture durable; False where S3 may not have been asked."""
        job = picture.job
        if not self._is_owned(job.origin):
            self._release_origin(job.origin)
            return False
        try:
            event = self._finisher.finish(picture, self._threads.now())
        except IdReused as error:
            # Another worker completed a picture under this id meanwhile.
            self._refuse(Failure.of(job, error.code, error.message), error.picture)
            return True
        except RequestRejected as error:
            self.on_failed(Failure.of(job, error.code, error.message))
            return False
        self._on_stored(job, event)
        return True

    def _store_checkpoint(self, job: Job) -> bool:
        """Leave the checkpoint for the next owner, who begins the job anew without one; False where S3 took none."""
        try:
            self._finisher.store_checkpoint(job)
        except StoreUnavailable as error:
            _log.warning("checkpoint_lost", error=str(error))
            return False
        finally:
            self._release_origin(job.origin)
        return True

    def _on_stored(self, job: Job, event: GenerationCompleted) -> None:
        self._in_hand.on_picture(job)
        now = self._threads.now()
        self._enqueue_outcome(self._messages.completed(self._job_log.on_stored(job, now), event, now))

    # From the publisher: the outcome is durable.

    def on_committed(self, origin: Origin) -> None:
        """The outcome is durable."""
        self._job_log.on_committed(origin, self._threads.now())

    # Cancellation, and release without an outcome.

    def cancel(self, job_id: str) -> None:
        """Stop a cancelled job before its next step, or before its start is recorded.

        The gate lets one job of an id through, so there is no other in the engine that was sent again since.
        """
        self._cancel_queued(job_id)
        for job in self._in_hand.of(job_id):
            reason = self._cancellation_of(job)
            if reason is not None:
                self.engine.cancel(job_id, ErrorCode.CANCELLED, reason)

    def release_partitions(self, partitions: Sequence[Key]) -> None:
        """Before partitions go: release what waits, give what runs a bounded time, commit, release the rest.

        Where the lanes' partitions go one after another, their jobs share the time: those of the second lane have gone
        on while the poll thread waited for those of the first.
        """
        self.release_waiting()
        jobs_s = self._revoke_timeout_s - self._waits.waited_s()
        self._waits.until(lambda: self._unfinished(partitions) == 0, min(jobs_s, self._waits.left_s()))
        self.release_running(partitions)

    def release_waiting(self) -> None:
        """Release every job of a closing partition that has not reached the GPU."""
        self.engine.release(self._is_wanted, started=False)
        self._release_waiting()

    def release_running(self, partitions: Sequence[Key]) -> None:
        """Release what still runs for closing partitions, and commit them a last time."""
        self.engine.release(self._is_wanted, started=True)
        self._waits.for_last_commit(self.publisher, partitions, lambda: self._unfinished(partitions))

    def release_unowned(self) -> None:
        """Partitions have another owner already, or were started over: release all that is not ours."""
        self.engine.release(self._is_owned, started=True)
        self._release_waiting()

    def wait_for_flush(self) -> None:
        """As `PollWaits.for_flush`."""
        self._waits.for_flush(self.publisher)

    def _release_waiting(self) -> None:
        with self._ledger.lock:
            waiting = [*self._gate.waiting(), *self._starts.waiting()]
            closed = [job for job in waiting if not self._is_wanted(job.origin)]
        for job in closed:
            self._release_origin(job.origin)

    def _release_origin(self, origin: Origin) -> None:
        """The job leaves without an outcome, and the next owner of its record does it again."""
        self._job_log.on_released(origin, self._threads.now())
        with self._ledger.lock:
            self._ledger.release(origin)
        self._leave_gate(origin)

    def _leave_gate(self, origin: Origin) -> None:
        self._in_hand.leave(origin)
        with self._ledger.lock:
            self._starts.leave(origin)
            free = self._gate.leave(origin)
        for job in free:
            self._look_up(job)
        self._record_starts()

    def report(self) -> None:
        """Set the gauges of the engine and of what waits for it; on the engine's thread."""
        with self._ledger.lock:
            queued = self._starts.waiting()
        metrics.SUSPECTS.set(sum(job.attempt > 1 for job in queued))
        self.engine.report(queued)

    def _enqueue_outcome(self, outcome: Outcome) -> None:
        self._enqueue(outcome)
        # Not only once it is durable: an outcome that cannot be written must not keep other suspects waiting.
        self._leave_gate(outcome.origin)

    def _enqueue(self, item: Outcome | Notice) -> None:
        self.publisher.enqueue(item, self._threads.monotonic())

    def _is_wanted(self, origin: Origin) -> bool:
        with self._ledger.lock:
            return self._ledger.owns(origin) and not self._ledger.is_closing(origin)

    def _is_owned(self, origin: Origin) -> bool:
        with self._ledger.lock:
            return self._ledger.owns(origin)

    def _unfinished(self, partitions: Sequence[Key]) -> int:
        with self._ledger.lock:
            return self._ledger.unfinished(partitions)
