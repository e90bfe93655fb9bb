"""The way of a job between the rooms: what each hands to the next, and how it is given back.

read → gate → look up a stored result → record the start → engine → encode and upload → publish
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from worker.delivery.finish import Completer
from worker.delivery.messages import Announcer
from worker.delivery.publish import Publisher, Start, Touch
from worker.delivery.retry_queue import WorkQueue
from worker.errors import ErrorCode, RequestRejected, StoreUnavailable
from worker.events.types import GenerationCompleted, JobStatus
from worker.intake.gate import Gate
from worker.intake.ledger import Ledger
from worker.intake.ledger import TopicPartition as Key
from worker.job import Failure, Job, Notice, Origin, Original, Outcome, Picture
from worker.telemetry import logs, metrics
from worker.telemetry.job_log import Journal

_log = structlog.get_logger()

# How long the last commit of a partition may take when it is given away.
_LAST_COMMIT_S = 5.0
# Longer than a transaction's coordinator takes to move to another broker.
_SETTLE_S = 30.0


class Engine(Protocol):
    """What the flow needs of `engine.loop.Engine`."""

    def submit(self, job: Job) -> None: ...
    def cancel(self, job_id: str, code: ErrorCode, message: str) -> None: ...
    def give_back(self, owned: Callable[[Origin], bool], *, started: bool) -> None: ...


class Flow:
    """Every method returns at once, but for `give_back`, whose wait is bounded. Called from all threads."""

    def __init__(
        self,
        ledger: Ledger,
        work: WorkQueue,
        completer: Completer,
        announcer: Announcer,
        clock: Callable[[], float],
        pause: Callable[[float], None],
        *,
        crash_loop_limit: int,
        revoke_timeout_s: float,
        journal: Journal | None = None,
    ) -> None:
        self._ledger = ledger
        self._work = work
        self._completer = completer
        self._announcer = announcer
        self._clock = clock
        self._pause = pause
        self._crash_loop_limit = crash_loop_limit
        self._revoke_timeout_s = revoke_timeout_s
        self._journal = journal or Journal()
        self._gate = Gate()
        self.engine: Engine
        self.publisher: Publisher
        self.cancelled: Callable[[Job], str | None] = lambda _job: None

    # From intake.

    def job(self, job: Job, starts: int) -> None:
        """An admitted job; `starts` counts the earlier ones that never ended."""
        job = self._journal.taken(job)
        if starts >= self._crash_loop_limit:
            metrics.CRASH_LOOPS.inc()
            message = f"the worker's process died {starts} times while it worked on this request"
            self.failure(replace(Failure.of(job, ErrorCode.CRASH_LOOP, message), attempt=starts))
            return
        self._publish(self._announcer.progress(job, JobStatus.QUEUED, self._clock()))
        with self._ledger.lock:
            may_go = self._gate.enter(job, suspect=starts > 0)
        if may_go:
            self._look_up(job)

    def failure(self, failure: Failure) -> None:
        """A request that ended without a picture."""
        metrics.ERRORS.labels(failure.lane.label, failure.code.value).inc()
        now = self._clock()
        self._publish(self._announcer.failed(self._journal.failed(failure, now), now))

    def dead_letter(self, origin: Origin, original: Original, error: str) -> None:
        """A record that is no request."""
        metrics.DEAD_LETTERS.inc()
        _log.warning("dead_letter", **logs.about_record(origin, original.key, original.headers), error=error)
        self._publish(self._announcer.dead_letter(origin, original, error))

    def passed(self, partition: Key) -> None:
        """Records that an earlier life finished were read, and nothing is left here that would commit them."""
        self.publisher.put(Touch((partition,), at_once=False), self._clock())

    def give_back(self, partitions: Sequence[Key]) -> None:
        """Before partitions go: hand back what waits, give what runs a bounded time, commit, let go."""
        self.hand_back_waiting()
        self.wait_until(lambda: self._unfinished(partitions) == 0, self._revoke_timeout_s)
        self.hand_back_all(partitions)

    def settle(self) -> None:
        """Before partitions come, and when they are off the books: let a flush end that may hold their offsets."""
        self.wait_until(lambda: not self.publisher.sending, _SETTLE_S)

    def lost(self) -> None:
        """Partitions have another owner already, or were started over: drop all that is not ours."""
        self.engine.give_back(self._owns, started=True)
        self._release_closed()

    def cancel(self, job_id: str, reason: str) -> None:
        """Stop a job before its next step; one that is not in the engine yet is stopped at its start."""
        self.engine.cancel(job_id, ErrorCode.CANCELLED, reason)

    # For give_back and for the drain at the end.

    def hand_back_waiting(self) -> None:
        """Give up every job of a closing partition that has not reached the GPU."""
        self.engine.give_back(self._wanted, started=False)
        self._release_closed()

    def hand_back_all(self, partitions: Sequence[Key]) -> None:
        """Give up what still runs for closing partitions and commit them a last time."""
        self.engine.give_back(self._wanted, started=True)
        self.wait_until(lambda: self._unfinished(partitions) == 0, _LAST_COMMIT_S)
        self.publisher.put(Touch(tuple(partitions)), self._clock())
        self.wait_until(lambda: self.publisher.idle, _LAST_COMMIT_S)

    def wait_until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Let the other threads work until `done`; False when the time is up."""
        deadline = self._clock() + timeout_s
        while not done():
            if self._clock() >= deadline:
                return False
            self._pause(0.01)
        return True

    # From the engine.

    def ended(self, result: Picture | Failure) -> None:
        """A job is done on the GPU."""
        if isinstance(result, Failure):
            self.failure(result)
            return
        job = result.job
        self._journal.drawn(result)
        metrics.DURATION.labels(job.lane.label).observe(result.timing.generation)
        metrics.WAIT.labels(job.lane.label).observe(result.timing.queue)
        self._work.put(job.lane, lambda: self._store(result), logs.about(job))

    def progress(self, job: Job, step: int, _steps: int) -> None:
        """A job has come this far."""
        self._publish(self._announcer.progress(job, JobStatus.RUNNING, self._clock(), step))

    def dropped(self, job: Job) -> None:
        """The engine gave up a job that is not ours any more, or will not be soon."""
        if job.checkpoint is not None and self._owns(job.origin):
            self._work.put(job.lane, lambda: self._keep(job), logs.about(job))
        else:
            self._hand_back(job.origin)

    # From the publisher.

    def started(self, job: Job, count: int) -> None:
        """The start is durable: the job may go to the GPU."""
        if not self._wanted(job.origin):
            self._hand_back(job.origin)
            return
        job = replace(job, attempt=count)
        reason = self.cancelled(job)
        if reason is None:
            self._journal.started(job)
            self.engine.submit(job)
        else:
            self.failure(Failure.of(job, ErrorCode.CANCELLED, reason))

    def finished(self, origin: Origin) -> None:
        """The outcome is durable."""
        self._journal.committed(origin, self._clock())
        self._leave(origin)

    def discarded(self, origin: Origin) -> None:
        """The record has another owner, or is about to."""
        self._hand_back(origin)

    # In the pool.

    def _look_up(self, job: Job) -> None:
        self._work.put(job.lane, lambda: self._find_stored(job), logs.about(job))

    def _find_stored(self, job: Job) -> None:
        """Answer a repeated job id from S3, without touching the GPU."""
        if not self._wanted(job.origin):
            self._hand_back(job.origin)
            return
        try:
            event = self._completer.stored(job, self._clock())
        except RequestRejected as error:
            self.failure(Failure.of(job, error.code, error.message))
            return
        if event is None:
            self.publisher.put(Start(self._completer.resumed(job)), self._clock())
        else:
            metrics.REPUBLISHED.inc()
            self._complete(job, event)

    def _keep(self, job: Job) -> None:
        """Leave the checkpoint for the next owner, who begins the job anew without one."""
        try:
            self._completer.keep(job)
        except StoreUnavailable as error:
            _log.warning("checkpoint_lost", error=str(error))
        finally:
            self._hand_back(job.origin)

    def _store(self, picture: Picture) -> None:
        job = picture.job
        if not self._owns(job.origin):
            self._hand_back(job.origin)
            return
        try:
            event = self._completer.complete(picture, self._clock())
        except RequestRejected as error:
            self.failure(Failure.of(job, error.code, error.message))
            return
        self._complete(job, event)

    def _complete(self, job: Job, event: GenerationCompleted) -> None:
        now = self._clock()
        self._publish(self._announcer.completed(self._journal.completed(job, now), event, now))

    def _publish(self, item: Outcome | Notice) -> None:
        self.publisher.put(item, self._clock())

    def _hand_back(self, origin: Origin) -> None:
        self._journal.lost(origin, self._clock())
        with self._ledger.lock:
            self._ledger.hand_back(origin)
        self._leave(origin)

    def _leave(self, origin: Origin) -> None:
        with self._ledger.lock:
            free = self._gate.leave(origin)
        for job in free:
            self._look_up(job)

    def _release_closed(self) -> None:
        with self._ledger.lock:
            closed = [job for job in self._gate.waiting() if not self._wanted(job.origin)]
        for job in closed:
            self._hand_back(job.origin)

    def _wanted(self, origin: Origin) -> bool:
        with self._ledger.lock:
            return self._ledger.owns(origin) and not self._ledger.is_closing(origin)

    def _owns(self, origin: Origin) -> bool:
        with self._ledger.lock:
            return self._ledger.owns(origin)

    def _unfinished(self, partitions: Sequence[Key]) -> int:
        with self._ledger.lock:
            return self._ledger.unfinished(partitions)
