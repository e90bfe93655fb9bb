"""`replay --publish`: publish results again, each exactly once, even if the replay is interrupted and continued.

A result is published before it is recorded in the state file. After an interruption between the two, the result is
found by reading the result topics for the replay's id, once the transaction of the interrupted run has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from confluent_kafka import Producer

from worker.client.connection import Connection
from worker.client.errors import CommandError
from worker.delivery.at_least_once import IDEMPOTENT_CONFIG, AtLeastOnce
from worker.delivery.encoded_batch import encoded
from worker.delivery.exactly_once import TRANSACTION_CONFIG, ExactlyOnce
from worker.delivery.finish import Finisher, IdReused, stored_event
from worker.delivery.messages import MessageWriter
from worker.delivery.transport import Transport, TryAgain
from worker.delivery.upload import PictureStore
from worker.engine_interface import Engine, EngineHooks, MakeEngine
from worker.errors import RequestRejected
from worker.events.types import GenerationCompleted
from worker.failure import Failure
from worker.intake.admit import AdmissionRules
from worker.job import Job
from worker.outcome import Outcome
from worker.picture import Picture
from worker.replay.engine_driver import ROWS_AT_ONCE, job_of_manifest, make
from worker.replay.plan import Item, Standing
from worker.replay.pool import ahead, ended, patiently
from worker.replay.selection import admit_again
from worker.replay.state import Done
from worker.topics import DEAD_LETTER_MAX_BYTES

FLUSH_RESULTS = 50
FLUSH_AFTER_S = 1.0
_TRIES = 5
_RETRY_PAUSE_S = 1.0


class Sent(StrEnum):
    """What `replay --publish` did with one job."""

    REPUBLISHED = "republished"
    MADE = "made"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Ready:
    """A result to publish; without an outcome, nothing is published and only `done` is recorded."""

    done: Done
    outcome: Outcome | None = None


class Results:
    """Publishes outcomes with a producer of its own; commits no offsets.

    Args:
        answered: returns the ids of the jobs whose result of this replay is in Kafka; called after a failure that
            left it uncertain.
    """

    def __init__(self, connection: Connection, replay_id: str, answered: Callable[[], set[str]]) -> None:
        self._connection = connection
        self._replay_id = replay_id
        self._answered = answered
        self._transport: Transport | None = None

    def open(self) -> None:
        """Open the producer, which ends a transaction that an earlier run left open; its results are visible then."""
        settings = self._connection.settings
        limits = {"message.max.bytes": DEAD_LETTER_MAX_BYTES}
        # A transactional.id of its own: with the configured one, the replay would fence the worker's producer.
        own = self._connection.config()
        no_group: Any = None
        if settings.delivery == "at-least-once":
            self._transport = AtLeastOnce(lambda: Producer(limits | IDEMPOTENT_CONFIG | own), no_group)
            return
        name = f"{settings.kafka_group_id}-{settings.kafka_topic_prefix}replay-{self._replay_id}"
        config = limits | TRANSACTION_CONFIG | own | {"transactional.id": name}
        transport = ExactlyOnce(lambda: Producer(config), no_group)
        try:
            transport.open()
        except TryAgain as error:
            raise CommandError(f"the transactional producer could not be opened: {error}") from error
        self._transport = transport

    def send(self, outcomes: dict[str, Outcome]) -> None:
        """Publish outcomes, given by job id, and return when they are durable.

        Raises:
            CommandError: they could not be published in several attempts.
        """
        left, problem = outcomes, ""
        for _ in range(_TRIES):
            if not left:
                return
            assert self._transport is not None
            messages = [message for outcome in left.values() for message in outcome.messages]
            records = [encoded(self._connection.codec, message) for message in messages]
            try:
                # Without offsets no group membership is needed, and each attempt is the first one of a new producer.
                self._transport.send(records, (), again=False)
            except TryAgain as error:
                problem = str(error)
            else:
                return
            time.sleep(_RETRY_PAUSE_S)
            self.open()
            there = self._answered()
            left = {job_id: outcome for job_id, outcome in left.items() if job_id not in there}
        if left:
            raise CommandError(f"{len(left)} results were not published: {problem}")


@dataclass(slots=True)
class Batch:
    """Collects results so that one transaction publishes many of them."""

    results: Results
    finished: Callable[[Done], None]
    _ready: list[Ready] = field(default_factory=list)
    _since: float = 0.0

    def add(self, ready: Ready) -> None:
        """Add a result; flush if there are enough of them or the oldest has waited long enough."""
        if not self._ready:
            self._since = time.monotonic()
        self._ready.append(ready)
        if len(self._ready) >= FLUSH_RESULTS or time.monotonic() - self._since > FLUSH_AFTER_S:
            self.flush()

    def flush(self) -> None:
        """Publish the collected results, then call `finished` for each, so only for results that are durable."""
        self.results.send({r.done.job_id: r.outcome for r in self._ready if r.outcome is not None})
        ready, self._ready = self._ready, []
        for one in ready:
            self.finished(one.done)


@dataclass(frozen=True, slots=True)
class Remaker:
    """Turns items into results, from the store if the picture is there, otherwise by making the picture.

    `make_engine` and `finisher` may be left out if no picture needs to be made (see `needs_model`).
    """

    store: PictureStore
    announcer: MessageWriter
    rules: AdmissionRules
    pool: ThreadPoolExecutor
    replay_id: str
    make_engine: MakeEngine | None = None
    finisher: Finisher | None = None

    def results(self, items: Iterator[Item]) -> Iterator[Ready]:
        """Yield the result of each item, in the order in which results become available.

        Raises:
            StoreUnavailable: S3 did not answer for a while.
        """
        uploads: set[Future[Ready]] = set()
        entries = ahead(self.pool, self._look, items)
        for result in make(self._engine, entries, ROWS_AT_ONCE):
            match result:
                case Ready():
                    yield result
                case Picture() | Failure():
                    uploads.add(self.pool.submit(self._finish, result))
            yield from ended(uploads, at_most=ROWS_AT_ONCE // 2)
        yield from ended(uploads, at_most=0)

    def _look(self, item: Item) -> Ready | Job:
        """Return the stored result, or else the job that makes it, as a worker does for a repeated job id."""
        if item.standing is Standing.TAMPERED:
            return Ready(Done(item.job_id, Sent.REFUSED.value, item.flaws))
        now = time.time()
        if item.standing is Standing.COMPLETED:
            assert item.manifest is not None
            job = job_of_manifest(item, now, self.replay_id)
            return self._republished(job, stored_event(item.manifest, job, self.store, self.rules.settings, now), now)
        assert self.finisher is not None
        finisher, request = self.finisher, item.requested.request
        try:
            job = admit_again(item.requested, self.rules, now, self.replay_id)
        except RequestRejected as error:
            picture = patiently(lambda: finisher.picture_of(request.girl_id, request.job_id, now))
            return self._failed(_refused(item, error, now, self.replay_id), now, picture)
        try:
            # The picture may have been made since the plan was read.
            event = patiently(lambda: finisher.stored(job, now))
        except IdReused as error:
            return self._failed(Failure.of(job, error.code, error.message), now, error.picture)
        return job if event is None else self._republished(job, event, now)

    def _engine(self, hooks: EngineHooks) -> Engine:
        assert self.make_engine is not None
        return self.make_engine(hooks)

    def _finish(self, result: Picture | Failure) -> Ready:
        now = time.time()
        if isinstance(result, Failure):
            return self._failed(result, now)
        job, finisher = result.job, self.finisher
        assert finisher is not None
        try:
            event = patiently(lambda: finisher.finish(result, now))
        except RequestRejected as error:
            return self._failed(Failure.of(job, error.code, error.message), now)
        return Ready(Done(job.job_id, Sent.MADE.value), self.announcer.completed(job, event, now))

    def _republished(self, job: Job, event: GenerationCompleted, now: float) -> Ready:
        return Ready(Done(job.job_id, Sent.REPUBLISHED.value), self.announcer.completed(job, event, now))

    def _failed(self, failure: Failure, now: float, picture: GenerationCompleted | None = None) -> Ready:
        """A failed event; `picture` is the one that has the job's id, and keeps the job's status."""
        done = Done(failure.request.job_id, Sent.FAILED.value, (f"{failure.code.value}: {failure.message}",))
        if picture is not None:
            return Ready(done, self.announcer.refused(failure, picture, now))
        return Ready(done, self.announcer.failed(failure, now))


def needs_model(items: Iterable[Item]) -> bool:
    """Return whether a picture may have to be made, which needs the model."""
    return any(item.standing not in (Standing.COMPLETED, Standing.TAMPERED) for item in items)


def _refused(item: Item, error: RequestRejected, now: float, replay_id: str) -> Failure:
    requested = item.requested
    return Failure(
        request=requested.request,
        lane=requested.lane,
        origin=requested.origin,
        code=error.code,
        message=error.message,
        requested_at=now,
        headers=requested.headers,
        replay_id=replay_id,
    )
