"""How a job ends here: with an outcome for the publisher, or released without one. Any thread may call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worker.delivery.messages import MessageWriter
from worker.delivery.publish import Publisher
from worker.events.types import GenerationCompleted
from worker.failure import Failure
from worker.intake.gate import Gate
from worker.intake.jobs_in_hand import JobsInHand
from worker.intake.ledger import Ledger
from worker.intake.start_queue import StartQueue
from worker.job import Job, Origin
from worker.outcome import Outcome
from worker.telemetry import metrics
from worker.telemetry.job_log import JobLog
from worker.threads import Threads


class Endings:
    """Takes a job that ends out of the gate, the start queue and the jobs in hand.

    Args:
        on_left: called after each end, with the jobs that waited at the gate for it and may go on.
    """

    def __init__(
        self,
        ledger: Ledger,
        gate: Gate,
        start_queue: StartQueue,
        in_hand: JobsInHand,
        publisher: Publisher,
        messages: MessageWriter,
        job_log: JobLog,
        threads: Threads,
        *,
        on_left: Callable[[Sequence[Job]], None],
    ) -> None:
        self._ledger = ledger
        self._gate = gate
        self._start_queue = start_queue
        self._in_hand = in_hand
        self._publisher = publisher
        self._messages = messages
        self._job_log = job_log
        self._threads = threads
        self._on_left = on_left

    def fail(self, failure: Failure) -> None:
        """A request has ended without a picture."""
        metrics.ERRORS.labels(failure.lane.label, failure.code.value).inc()
        now = self._threads.now()
        self._end(self._messages.failed(self._job_log.on_failed(failure, now), now))

    def refuse(self, failure: Failure, picture: GenerationCompleted) -> None:
        """A request has ended without a picture, and its id is that of one."""
        metrics.ERRORS.labels(failure.lane.label, failure.code.value).inc()
        now = self._threads.now()
        self._end(self._messages.refused(self._job_log.on_failed(failure, now), picture, now))

    def complete(self, job: Job, event: GenerationCompleted) -> None:
        """The job's picture is in the store."""
        self._in_hand.on_picture(job)
        now = self._threads.now()
        self._end(self._messages.completed(self._job_log.on_stored(job, now), event, now))

    def release(self, origin: Origin) -> None:
        """The job leaves without an outcome, and the next owner of its record does it again."""
        self._job_log.on_released(origin, self._threads.now())
        with self._ledger.lock:
            self._ledger.release(origin)
        self._leave(origin)

    def _end(self, outcome: Outcome) -> None:
        self._publisher.enqueue(outcome, self._threads.monotonic())
        # Not only once it is durable: an outcome that cannot be written must not keep other suspects waiting.
        self._leave(outcome.origin)

    def _leave(self, origin: Origin) -> None:
        self._in_hand.leave(origin)
        with self._ledger.lock:
            self._start_queue.leave(origin)
            free = self._gate.leave(origin)
        self._on_left(free)
