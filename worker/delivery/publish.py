"""The publisher: gathers what has ended, and makes it durable together with the offsets.

It owns the producer. A flush happens at once for urgent outcomes and for starts, since a job waits for its start to be
recorded; other outcomes wait for company, at most the flush interval.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from worker.delivery.transport import Encoded, Offset, Transport, TryAgain
from worker.errors import RegistryUnavailable
from worker.events.codec import EventCodec
from worker.job import Job, Message, Notice, Origin, Outcome
from worker.telemetry import logs, metrics

_log = structlog.get_logger()

_RETRY_FIRST_S = 0.1
_RETRY_MAX_S = 5.0
# More than a rebalance or a broker's restart costs.
_FAILING_TRIES = 3


class Books(Protocol):
    """What the publisher needs of the ledger (`intake.ledger.Ledger`)."""

    lock: threading.RLock

    def owns(self, origin: Origin) -> bool: ...
    def is_closing(self, origin: Origin) -> bool: ...
    def start(self, origin: Origin) -> int: ...
    def finish(self, origins: Iterable[Origin]) -> None: ...
    def commits(self, finishing: Any, also: Iterable[tuple[str, int]] = ()) -> list[Any]: ...


@dataclass(frozen=True, slots=True)
class Start:
    """A job that may go to the GPU once its start is durable."""

    job: Job


@dataclass(frozen=True, slots=True)
class Touch:
    """Commit these partitions even if nothing of theirs has ended."""

    partitions: tuple[tuple[str, int], ...]
    at_once: bool = True


Item = Outcome | Start | Notice | Touch


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherHooks:
    """What the publisher calls on its own thread.

    Args:
        on_started: a start is durable; gets the job and the number of its attempt.
        on_committed: the outcome of a record is durable.
        on_not_owned: nothing was published for a record, because it is no longer ours.
    """

    on_started: Callable[[Job, int], None]
    on_committed: Callable[[Origin], None]
    on_not_owned: Callable[[Origin], None]


@dataclass(slots=True)
class _Batch:
    """One flush, kept until it is durable."""

    outcomes: list[Outcome] = field(default_factory=list)
    starts: list[tuple[Job, int]] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    touched: set[tuple[str, int]] = field(default_factory=set)


class Publisher:
    """Any thread may `enqueue`; one thread calls `tick`."""

    def __init__(
        self, transport: Transport, books: Books, codec: EventCodec, hooks: PublisherHooks, *, flush_interval_s: float
    ) -> None:
        self._transport = transport
        self._books = books
        self._codec = codec
        self._hooks = hooks
        self._flush_interval_s = flush_interval_s
        self._changed = threading.Condition()
        self._items: list[Item] = []
        self._due: float | None = None
        self._batch: _Batch | None = None
        self._tries = 0
        self._sending = False

    def enqueue(self, item: Item, now: float) -> None:
        """Queue something for the next flush."""
        with self._changed:
            self._items.append(item)
            due = now if _is_urgent(item) else now + self._flush_interval_s
            self._due = due if self._due is None else min(self._due, due)
            self._changed.notify()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and no flush is under way."""
        with self._changed:
            return not self._items and self._batch is None

    @property
    def sending(self) -> bool:
        """Whether a flush is under way that was made up from the books as they were."""
        return self._sending

    @property
    def is_failing(self) -> bool:
        """Whether the flush that is under way has failed several times."""
        return self._tries >= _FAILING_TRIES

    def wait(self, now: float, timeout_s: float) -> None:
        """Sleep until a flush is due, at most `timeout_s`."""
        with self._changed:
            pause = timeout_s if self._due is None else min(timeout_s, self._due - now)
            if pause > 0:
                self._changed.wait(pause)

    def tick(self, now: float) -> bool:
        """Flush if it is time; False when it is not."""
        with self._changed:
            if self._due is None or now < self._due:
                return False
            # A flush that failed is sent anew with nothing added, so that it either took place or did not.
            items: list[Item] = []
            if self._batch is None:
                items, self._items = self._items, []
                self._batch = _Batch()
            batch = self._batch
        self._sort(items, batch)
        try:
            self._flush(batch)
        except (TryAgain, RegistryUnavailable) as error:
            pause = min(_RETRY_MAX_S, _RETRY_FIRST_S * 2**self._tries)
            self._tries += 1
            _log.warning("flush_failed", error=str(error), tries=self._tries, retry_in_s=pause)
            with self._changed:
                self._due = now + pause
            return True
        self._close_batch(batch, now)
        return True

    def open(self) -> None:
        """End a dead predecessor's open transaction, which holds up the next owners of its partitions."""
        try:
            self._transport.open()
        except TryAgain as error:
            _log.warning("producer_not_open", error=str(error))

    def close(self) -> None:
        """Let go of the producer."""
        self._transport.close()

    def _sort(self, items: list[Item], batch: _Batch) -> None:
        for item in items:
            match item:
                case Outcome():
                    batch.outcomes.append(item)
                case Notice():
                    batch.notices.append(item)
                case Touch():
                    batch.touched.update(item.partitions)
                case Start():
                    self._begin(item.job, batch)

    def _begin(self, job: Job, batch: _Batch) -> None:
        with self._books.lock:
            wanted = self._books.owns(job.origin) and not self._books.is_closing(job.origin)
            count = self._books.start(job.origin) if wanted else 0
        if wanted:
            batch.starts.append((job, count))
            batch.touched.add(_key(job.origin))
        else:
            self._hooks.on_not_owned(job.origin)

    def _flush(self, batch: _Batch) -> None:
        membership = self._transport.membership()
        try:
            messages, offsets = self._compose(batch)
            if messages or offsets:
                records = [encoded(self._codec, message) for message in messages]
                before = time.perf_counter()
                self._transport.send(records, offsets, membership, again=self._tries > 0)
                metrics.PHASE.labels("publish").observe(time.perf_counter() - before)
        finally:
            self._sending = False
        with self._books.lock:
            self._books.finish(outcome.origin for outcome in batch.outcomes)

    def _compose(self, batch: _Batch) -> tuple[list[Message], list[Offset]]:
        """What to send of the batch, by the books as they are now."""
        with self._books.lock:
            self._sending = True
            self._release_unowned(batch)
            finishing = {outcome.origin for outcome in batch.outcomes}
            notices = [n for n in batch.notices if self._books.owns(n.origin) and n.origin not in finishing]
            # With offsets of its partition, so that the broker's check of the membership stops a late notice.
            noticed = {_key(notice.origin) for notice in notices}
            commits = self._books.commits(finishing, also=batch.touched | noticed)
        messages = [notice.message for notice in notices]
        messages += [message for outcome in batch.outcomes for message in outcome.messages]
        ending = {_key(origin) for origin in finishing}
        return messages, [
            Offset(c.topic, c.partition, c.offset, c.metadata, (c.topic, c.partition) in ending) for c in commits
        ]

    def _release_unowned(self, batch: _Batch) -> None:
        """Drop the outcomes of records that have another owner by now."""
        for outcome in batch.outcomes:
            if not self._books.owns(outcome.origin):
                metrics.DISCARDED.inc()
                _log.info("result_discarded", **logs.about_outcome(outcome))
                self._hooks.on_not_owned(outcome.origin)
        batch.outcomes = [outcome for outcome in batch.outcomes if self._books.owns(outcome.origin)]

    def _close_batch(self, batch: _Batch, now: float) -> None:
        self._tries = 0
        for job, count in batch.starts:
            self._hooks.on_started(job, count)
        for outcome in batch.outcomes:
            self._hooks.on_committed(outcome.origin)
        with self._changed:
            self._batch = None
            self._due = now if self._items else None


def encoded(codec: EventCodec, message: Message) -> Encoded:
    """A message as the producer takes it. Raises RegistryUnavailable."""
    headers: list[tuple[str, str | bytes | None]] = list(message.headers)
    if message.value is None or isinstance(message.value, bytes):
        return Encoded(message.topic, message.key, message.value, headers)
    value, framing = codec.encode(message.value, topic=message.topic)
    return Encoded(message.topic, message.key, value, [*headers, *framing])


def _is_urgent(item: Item) -> bool:
    match item:
        case Start():
            return True
        case Touch():
            return item.at_once
        case Outcome():
            return item.urgent
        case Notice():
            return False


def _key(origin: Origin) -> tuple[str, int]:
    return origin.topic, origin.partition
