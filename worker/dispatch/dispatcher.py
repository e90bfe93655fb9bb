"""The dispatcher: each request on to a worker that has room, in one transaction with its offset.

It is to the intake what a worker's `Lifecycle` is: it gets every record, and what it hands to the publisher ends that
record here. What it has sent is the workers' trouble; what it has not is read again by whoever comes next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from worker.delivery.messages import MessageWriter
from worker.delivery.publish import Publisher, PublisherHooks, Touch
from worker.dispatch import gauges
from worker.dispatch.bytes_in_hand import BytesInHand
from worker.dispatch.fleet import Fleet
from worker.dispatch.policy import Backlog, Request
from worker.dispatch.work import lora_set, pictures
from worker.events.types import WorkerReport
from worker.failure import Failure
from worker.intake.consume import RecordReader
from worker.intake.ledger import Ledger
from worker.intake.ledger import TopicPartition as Key
from worker.intake.records import Record
from worker.job import Job, Lane, Origin
from worker.outcome import Message, Original, Outcome
from worker.poll_waits import PollWaits
from worker.telemetry import logs, metrics
from worker.threads import Threads

if TYPE_CHECKING:
    from worker.dispatch.spans import DispatchSpans

_log = structlog.get_logger()

DISPATCHED_AT = "dispatched-at"
GAUGES_EVERY_S = 1.0
# What a request that no worker will draw counts as: it is refused at once.
_REFUSED_PICTURES = 0.01


@dataclass(slots=True)
class _Held:
    """A record that was read, at `read_at` in epoch seconds, and has not been sent."""

    record: Record
    request: Request
    read_at: float


class Dispatcher:
    """The poll thread's, but for `hear` and the publisher's hooks: they only leave a message for it.

    Args:
        make_reader: makes what decodes records, around this object as its hooks.
        model_of: the model that a job must be drawn with; None for any.
        spans: where each request is traced; None for not.
    """

    def __init__(
        self,
        ledger: Ledger,
        messages: MessageWriter,
        threads: Threads,
        waits: PollWaits,
        fleet: Fleet,
        *,
        make_reader: Callable[[Dispatcher], RecordReader],
        make_publisher: Callable[[PublisherHooks], Publisher],
        model_of: Callable[[Job], str | None] = lambda _job: None,
        spans: DispatchSpans | None = None,
    ) -> None:
        self._ledger = ledger
        self._messages = messages
        self._threads = threads
        self._waits = waits
        self._fleet = fleet
        self._model_of = model_of
        self._spans = spans
        self._reader = make_reader(self)
        self._backlog = Backlog()
        self._held: dict[Origin, _Held] = {}
        # The record that the reader decodes just now, or that waits in it for the registry.
        self._records: dict[Origin, Record] = {}
        self._bytes = BytesInHand()
        self._mail: deque[Callable[[], None]] = deque()
        self._gauges_at = float("-inf")
        self.publisher = make_publisher(
            PublisherHooks(
                on_started=lambda _job, _attempt: None,
                on_written=lambda origin, offset: self._post(lambda: self._fleet.written(origin, offset)),
                on_committed=self._committed,
                on_not_owned=self._not_owned,
            )
        )

    # From other threads.

    def hear(self, report: WorkerReport) -> None:
        """A worker has reported just now."""
        self._post(lambda: self._fleet.hear(report, self._threads.monotonic()))

    def _committed(self, origin: Origin) -> None:
        if self._spans is not None:
            self._spans.end(origin, self._threads.now())
        self._post(lambda: self._on_committed(origin))

    def _not_owned(self, origin: Origin) -> None:
        if self._spans is not None:
            self._spans.release(origin, self._threads.now())
        self._post(lambda: self._on_not_owned(origin))

    def _post(self, message: Callable[[], None]) -> None:
        self._mail.append(message)

    # From intake: records, as `consume.RecordReader`.

    def take(self, record: Record, origin: Origin) -> None:
        """Decode a record, to know what it needs; it is passed on as it is."""
        self._records[origin] = record
        self._bytes.enter(origin, record)
        self._reader.take(record, origin)

    def retry_held(self) -> None:
        """Go on with records that wait for the registry, then send what can be sent."""
        self._reader.retry_held()
        self.dispatch()

    def release(self, partitions: Collection[Key]) -> None:
        """Forget what is not sent of these partitions; the caller holds the ledger's lock."""
        self._reader.release(partitions)
        gone = set(partitions)
        for origin in [o for o in self._records if (o.topic, o.partition) in gone]:
            del self._records[origin]
            self._bytes.leave(origin)
        for origin in [o for o in self._held if (o.topic, o.partition) in gone]:
            self._backlog.remove(self._held.pop(origin).request)
            self._bytes.leave(origin)
            self._ledger.release(origin)

    def is_full(self, partition: Key) -> bool:
        """Whether the records of a partition that are read and not durable are too large to read more of them."""
        return self._bytes.are_too_many(partition)

    # From the reader, as its hooks.

    def on_admitted(self, job: Job, starts: int) -> None:  # noqa: ARG002 - nothing starts here
        """A request that some worker will draw."""
        self._hold(job.origin, job.lane, pictures(job), lora_set(job), self._model_of(job))

    def on_rejected(self, failure: Failure) -> None:
        """A request that any worker will refuse, in the words that producers know."""
        self._hold(failure.origin, failure.lane, _REFUSED_PICTURES, "", None)

    def on_undecodable(self, origin: Origin, original: Original, error: str) -> None:
        """No request: it goes to the dead-letter topic, as a worker would send it."""
        self._records.pop(origin, None)
        metrics.DEAD_LETTERS.inc()
        _log.warning("dead_letter", **logs.about_record(origin, original.key, original.headers), error=error)
        self.publisher.enqueue(self._messages.dead_letter(origin, original, error), self._threads.monotonic())

    def _hold(self, origin: Origin, lane: Lane, work: float, loras: str, model: str | None) -> None:
        request = Request(origin, lane, self._threads.monotonic(), work, loras, model)
        self._held[origin] = _Held(self._records.pop(origin), request, self._threads.now())
        self._backlog.add(request)

    # On to the workers.

    def dispatch(self) -> None:
        """Take in what was heard, and send what there is room for."""
        while self._mail:
            self._mail.popleft()()
        now = self._threads.monotonic()
        if self._held:
            for choice in self._backlog.choose(self._fleet.workers(now), now):
                self._send(choice.request, choice.worker.name, now)
        if now >= self._gauges_at:
            self._gauges_at = now + GAUGES_EVERY_S
            gauges.show(self._backlog, self._fleet, now)

    def _send(self, request: Request, worker: str, now: float) -> None:
        origin = request.key
        assert isinstance(origin, Origin)
        place = self._fleet.place_for(worker, request.lane)
        self._fleet.send(request, place)
        metrics.DISPATCH_WAIT.labels(request.lane.label).observe(now - request.arrived_s)
        held, at = self._held.pop(origin), self._threads.now()
        if self._spans is not None:
            self._spans.send(held.record, origin, place, worker, read_at=held.read_at, now=at)
        message = passed_on(held.record, place, at)
        outcome = Outcome(origin=origin, messages=(message,), urgent=request.lane is Lane.URGENT)
        self.publisher.enqueue(outcome, now)

    def _on_committed(self, origin: Origin) -> None:
        self._bytes.leave(origin)
        self._fleet.durable(origin, self._threads.monotonic())

    def _on_not_owned(self, origin: Origin) -> None:
        self._bytes.leave(origin)
        self._fleet.unsend(origin)

    # From intake: partitions, as `consume.IntakeHooks`.

    def commit_soon(self, partition: Key) -> None:
        """The offset to commit has moved, and perhaps no record is to come that would commit it."""
        self.publisher.enqueue(Touch((partition,), at_once=False), self._threads.monotonic())

    def release_partitions(self, partitions: Sequence[Key]) -> None:
        """Before partitions go: what was sent becomes durable. `release` has taken back what was not."""
        self._waits.for_last_commit(self.publisher, partitions, lambda: self._unfinished(partitions))

    def release_unowned(self) -> None:
        """Partitions have another owner already, or were started over: forget what is not ours."""
        with self._ledger.lock:
            gone = [origin for origin in (*self._held, *self._records) if not self._ledger.owns(origin)]
        for origin in gone:
            self._records.pop(origin, None)
            self._bytes.leave(origin)
            if origin in self._held:
                self._backlog.remove(self._held.pop(origin).request)

    def wait_for_flush(self) -> None:
        """As `PollWaits.for_flush`."""
        self._waits.for_flush(self.publisher)

    def _unfinished(self, partitions: Sequence[Key]) -> int:
        with self._ledger.lock:
            return self._ledger.unfinished(partitions)


def passed_on(record: Record, place: Key, now: float) -> Message:
    """The record for a partition of a work topic: key, value, headers and time as they came, and when it was passed on.

    Args:
        now: in epoch seconds.
    """
    headers = tuple((name, value.encode() if isinstance(value, str) else value) for name, value in record.headers or ())
    stamp = (DISPATCHED_AT, str(round(now * 1000)).encode())
    topic, partition = place
    return Message(
        topic=topic,
        key=record.key,
        value=record.value,
        headers=(*headers, stamp),
        partition=partition,
        written_at=record.written_at,
    )
