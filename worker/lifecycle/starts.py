"""Jobs that wait for the engine: their starts are recorded once it has room, unless they end before."""

from __future__ import annotations

from collections.abc import Callable

from worker.delivery.publish import Publisher, Start
from worker.engine_interface import Engine, Room
from worker.errors import ErrorCode
from worker.failure import Failure
from worker.intake.ledger import Ledger
from worker.intake.start_queue import StartQueue, is_lone
from worker.job import Job
from worker.lifecycle.endings import Endings
from worker.lifecycle.ownership import Ownership
from worker.lifecycle.partitions import PartitionChanges
from worker.telemetry import metrics
from worker.threads import Threads

# The engine may read the LoRA files of so many jobs ahead of their starts.
_JOBS_EXPECTED = 2


class Starts:
    """Any thread may call it.

    Args:
        cancellation_of: says why a job is cancelled, or None.
    """

    def __init__(
        self,
        ledger: Ledger,
        queue: StartQueue,
        ownership: Ownership,
        engine: Engine,
        publisher: Publisher,
        endings: Endings,
        partitions: PartitionChanges,
        threads: Threads,
        *,
        cancellation_of: Callable[[Job], str | None],
        crash_loop_limit: int,
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._ownership = ownership
        self._engine = engine
        self._publisher = publisher
        self._endings = endings
        self._partitions = partitions
        self._threads = threads
        self._cancellation_of = cancellation_of
        self._crash_loop_limit = crash_loop_limit
        self._expected: tuple[Job, ...] = ()

    def add(self, job: Job) -> None:
        """A job has no picture yet, so it may be drawn."""
        with self._ledger.lock:
            self._queue.add(job, alone=is_lone(job.attempt - 1, self._crash_loop_limit))
        # Both may have come while S3 was asked.
        self._end_if_cancelled(job)
        if not self._ownership.is_wanted(job.origin):
            self._partitions.release_not_started()
        self.record()

    def on_room(self, room: Room) -> None:
        """The engine tells its room, at every tick."""
        now = self._threads.now()
        with self._ledger.lock:
            self._queue.room = room
            expired = self._queue.expired(now)
        for job in expired:
            self._end(job, ErrorCode.EXPIRED, "expires_at passed before the picture was begun")
        self.record()

    def record(self) -> None:
        """Have the starts recorded for which there is room, and tell the engine which jobs come next."""
        with self._ledger.lock:
            jobs = self._queue.next(self._threads.now())
            upcoming = self._queue.upcoming(_JOBS_EXPECTED)
        for job in jobs:
            self._publisher.enqueue(Start(job), self._threads.monotonic())
        if upcoming and upcoming != self._expected:
            self._expected = upcoming
            self._engine.expect(upcoming)

    def cancel(self, job_id: str) -> None:
        """Fail the cancelled jobs of this id whose starts are not recorded."""
        with self._ledger.lock:
            queued = [job for job in self._queue.waiting() if job.job_id == job_id]
        for job in queued:
            self._end_if_cancelled(job)

    def report(self) -> list[Job]:
        """Set the gauge of the suspects among the jobs that wait for their start, and return all of these."""
        with self._ledger.lock:
            queued = self._queue.waiting()
        metrics.SUSPECTS.set(sum(job.attempt > 1 for job in queued))
        return queued

    def _end_if_cancelled(self, job: Job) -> None:
        reason = self._cancellation_of(job)
        if reason is not None:
            self._end(job, ErrorCode.CANCELLED, reason)

    def _end(self, job: Job, code: ErrorCode, reason: str) -> None:
        """Fail a job, unless its start was recorded meanwhile."""
        with self._ledger.lock:
            was_queued = self._queue.withdraw(job.origin)
        if was_queued:
            self._endings.fail(Failure.of(job, code, reason))
