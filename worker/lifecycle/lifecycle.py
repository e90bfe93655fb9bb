"""What each room tells of a job, in the order of the job's way, and what is done with it next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from worker.delivery.finish import Finisher
from worker.delivery.messages import MessageWriter
from worker.delivery.publish import Publisher, PublisherHooks
from worker.delivery.retry_queue import RetryQueue
from worker.engine_interface import EngineHooks, MakeEngine, Room
from worker.errors import ErrorCode
from worker.events.types import JobStatus
from worker.failure import Failure
from worker.intake.gate import Gate
from worker.intake.jobs_in_hand import JobsInHand
from worker.intake.ledger import Ledger
from worker.intake.start_queue import StartQueue
from worker.job import Job, Origin
from worker.lifecycle.endings import Endings
from worker.lifecycle.look_ups import LookUps
from worker.lifecycle.ownership import Ownership
from worker.lifecycle.partitions import PartitionChanges
from worker.lifecycle.starts import Starts
from worker.lifecycle.storing import Storing
from worker.outcome import Notice, Original, Outcome
from worker.picture import Picture
from worker.poll_waits import PollWaits
from worker.telemetry import logs, metrics
from worker.telemetry.job_log import JobLog
from worker.threads import Threads

_log = structlog.get_logger()

MakePublisher = Callable[[PublisherHooks], Publisher]


class Lifecycle:
    """Hands jobs from room to room. Any thread may call it, and every method returns at once.

    `partitions` is what is to be called as partitions come and go.

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
        self._messages = messages
        self._job_log = job_log
        self._threads = threads
        self._cancellation_of = cancellation_of
        self._crash_loop_limit = crash_loop_limit
        self._gate = gate = Gate()
        self._start_queue = queue = StartQueue(wait_bounds_s)
        self._in_hand = JobsInHand()
        self._ownership = owned = Ownership(ledger)
        self.publisher = make_publisher(
            PublisherHooks(on_started=self.on_started, on_committed=self.on_committed, on_not_owned=self._on_not_owned)
        )
        self._endings = endings = Endings(
            ledger, gate, queue, self._in_hand, self.publisher, messages, job_log, threads, on_left=self._on_left
        )
        self.engine = make_engine(
            EngineHooks(
                on_progress=self.on_progress,
                on_pixels=self.on_pixels,
                on_failed=endings.fail,
                on_released=self.on_released,
                on_room=self._on_room,
                apart=self._apart,
            )
        )
        self.partitions = PartitionChanges(
            ledger,
            gate,
            queue,
            owned,
            self.engine,
            self.publisher,
            endings,
            threads,
            waits,
            revoke_timeout_s=revoke_timeout_s,
        )
        self._starts = Starts(
            ledger,
            queue,
            owned,
            self.engine,
            self.publisher,
            endings,
            self.partitions,
            threads,
            cancellation_of=cancellation_of,
            crash_loop_limit=crash_loop_limit,
        )
        self._look_ups = LookUps(
            retry_queue, finisher, self._in_hand, owned, endings, threads, queue_start=self._starts.add
        )
        self._storing = Storing(retry_queue, finisher, owned, endings, threads)

    # From intake.

    def on_undecodable(self, origin: Origin, original: Original, error: str) -> None:
        """A record is no request: it goes to the dead-letter topic."""
        metrics.DEAD_LETTERS.inc()
        _log.warning("dead_letter", **logs.about_record(origin, original.key, original.headers), error=error)
        self._enqueue(self._messages.dead_letter(origin, original, error))

    def on_admitted(self, job: Job, starts: int) -> None:
        """A request was admitted; `starts` counts its earlier starts that never ended."""
        job = replace(self._job_log.on_admitted(job), attempt=starts + 1)
        if starts >= self._crash_loop_limit:
            self._look_ups.give_up(job, starts)
            return
        self._enqueue(self._messages.progress(job, JobStatus.QUEUED, self._threads.now()))
        with self._ledger.lock:
            may_go = self._gate.enter(job)
        if may_go:
            self._look_ups.look_up(job)

    def on_rejected(self, failure: Failure) -> None:
        """A request was not admitted."""
        self._look_ups.reject(failure)

    # From the publisher: the start is durable.

    def on_started(self, job: Job, attempt: int) -> None:
        """The start is durable, so the job may go to the GPU."""
        if not self._ownership.is_wanted(job.origin):
            self._endings.release(job.origin)
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
            self._endings.fail(Failure.of(job, ErrorCode.CANCELLED, reason))

    # From the engine.

    def on_progress(self, job: Job, step: int, _steps: int) -> None:
        """A job has come as far as `step`."""
        self._enqueue(self._messages.progress(job, JobStatus.RUNNING, self._threads.now(), step))

    def on_pixels(self, picture: Picture) -> None:
        """The GPU is done with a job."""
        job = picture.job
        with self._ledger.lock:
            self._start_queue.drawn(job.origin)
        self._job_log.on_pixels(picture)
        metrics.DURATION.labels(job.lane.label).observe(picture.timing.generation)
        metrics.WAIT.labels(job.lane.label).observe(picture.timing.queue)
        self._storing.picture(picture)

    def on_released(self, job: Job) -> None:
        """The engine has released a job whose record is not ours any more, or will not be soon."""
        if job.checkpoint is not None and self._ownership.is_owned(job.origin):
            self._storing.checkpoint(job)
        else:
            self._endings.release(job.origin)

    # From the publisher: the outcome is durable.

    def on_committed(self, origin: Origin) -> None:
        """The outcome is durable."""
        self._job_log.on_committed(origin, self._threads.now())

    # From the cancellation topic, and for the metrics.

    def cancel(self, job_id: str) -> None:
        """Stop a cancelled job before its next step, or before its start is recorded.

        The gate lets one job of an id through, so there is no other in the engine that was sent again since.
        """
        self._starts.cancel(job_id)
        for job in self._in_hand.of(job_id):
            reason = self._cancellation_of(job)
            if reason is not None:
                self.engine.cancel(job_id, ErrorCode.CANCELLED, reason)

    def report(self) -> None:
        """Set the gauges of the engine and of what waits for it; on the engine's thread."""
        self.engine.report(self._starts.report())

    # What the parts have to tell each other once all of them are there.

    def _on_room(self, room: Room) -> None:
        self._starts.on_room(room)

    def _on_not_owned(self, origin: Origin) -> None:
        self._endings.release(origin)

    def _on_left(self, free: Sequence[Job]) -> None:
        """A job has left, so others may go on: those that it kept waiting at the gate, and the next to start."""
        for job in free:
            self._look_ups.look_up(job)
        self._starts.record()

    def _apart(self, job: Job, task: Callable[[], None]) -> None:
        """What takes the engine's thread too long is done in the pool; S3 has no part in it."""

        def run() -> bool:
            task()
            return False

        self._retry_queue.add(job.lane, run, logs.about(job))

    def _enqueue(self, item: Outcome | Notice) -> None:
        self.publisher.enqueue(item, self._threads.monotonic())
