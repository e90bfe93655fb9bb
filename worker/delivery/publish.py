"""The publisher: gathers what has ended, and makes it durable together with the offsets.

It owns the producer. A flush happens at once for urgent outcomes and for starts, since a job waits for its start to be
recorded; other outcomes wait for company, at most the flush interval. What becomes of a flush that does not pass is
decided by `recovery`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from worker.delivery.batch import Batch, Part, parts_of, place
from worker.delivery.blocked import BlockedOutcomes
from worker.delivery.encoded_batch import encode_all, record_of
from worker.delivery.recovery import Recovery
from worker.delivery.transport import Encoded, Membership, Offset, Refused, Transport, TryAgain
from worker.errors import RegistryUnavailable
from worker.events.codec import EventCodec
from worker.job import Job, Origin
from worker.outcome import Notice, Outcome
from worker.telemetry import logs, metrics

_log = structlog.get_logger()

# More than a rebalance or a broker's restart costs.
_FAILING_TRIES = 3
_RIGHT_AGAIN_S = 5.0
# Beyond the longest that a flush may take while a coordinator moves.
STUCK_AFTER_S = 60.0


class Books(Protocol):
    """What the publisher needs of the ledger (`intake.ledger.Ledger`)."""

    lock: threading.RLock

    def owns(self, origin: Origin) -> bool: ...
    def is_closing(self, origin: Origin) -> bool: ...
    def start(self, origin: Origin) -> int: ...
    def finish(self, origins: Iterable[Origin]) -> None: ...
    def has_passed(self, key: tuple[str, int], offset: int) -> bool: ...
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
        on_written: the offset of an outcome's first message, just before `on_committed`, where it is known.
    """

    on_started: Callable[[Job, int], None]
    on_committed: Callable[[Origin], None]
    on_not_owned: Callable[[Origin], None]
    on_written: Callable[[Origin, int], None] = lambda _origin, _offset: None


class Publisher:
    """Any thread may `enqueue` and ask for `problem`; one thread calls the others.

    Times are monotonic seconds.
    """

    def __init__(
        self,
        transport: Transport,
        books: Books,
        codec: EventCodec,
        hooks: PublisherHooks,
        *,
        flush_interval_s: float,
    ) -> None:
        self._transport = transport
        self._books = books
        self._codec = codec
        self._hooks = hooks
        self._flush_interval_s = flush_interval_s
        self._changed = threading.Condition()
        self._items: list[Item] = []
        self._items_due: float | None = None
        # What is sent next, the first one until it is durable; nothing is added to it, so that a flush whose answer
        # was lost either took place or did not.
        self._pending: deque[Batch] = deque()
        self._parts: list[Part] = []
        self._offsets: Mapping[int, int] = {}
        self._retry_at = 0.0
        self._blocked = BlockedOutcomes()
        self._recovery = Recovery(self._blocked)
        self._flush_number = 0
        self._under_way: int | None = None
        self._failing_since: float | None = None
        # The right that is missing, and when to see whether it is back although nothing is to be sent.
        self._right: str | None = None
        self._try_right_at = 0.0
        self._topic_refuses = False
        self._blocked_sentence: str | None = None

    def enqueue(self, item: Item, now: float) -> None:
        """Queue something for the next flush."""
        with self._changed:
            self._items.append(item)
            due = now if _is_urgent(item) else now + self._flush_interval_s
            self._items_due = due if self._items_due is None else min(self._items_due, due)
            self._changed.notify()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and no flush is under way; blocked outcomes do not count."""
        with self._changed:
            return not self._items and not self._pending

    @property
    def flush_under_way(self) -> int | None:
        """The number of the flush under way that was made up from the books as they were; None without one."""
        return self._under_way

    def failing_s(self, now: float) -> float:
        """How long the flush under way has been failing or hanging; 0 while all is well."""
        since = self._failing_since
        return 0.0 if since is None else max(0.0, now - since)

    def problem(self, now: float) -> str | None:
        """Why results do not become durable, as a sentence; None while they do."""
        failing_s = self.failing_s(now)
        if failing_s > STUCK_AFTER_S:
            why = self._right or self._recovery.failure or "a flush hangs"
            return f"nothing could be published for {failing_s:.0f} s: {why}"
        return self._right or self._blocked_sentence

    @property
    def is_failing(self) -> bool:
        """Whether the flush under way has failed several times, outcomes are blocked, or a topic takes no record."""
        is_blocked = self._blocked_sentence is not None or self._topic_refuses
        return is_blocked or self._recovery.tries >= _FAILING_TRIES

    def wait(self, now: float, timeout_s: float) -> None:
        """Sleep until a flush is due, at most `timeout_s`."""
        with self._changed:
            due = self._due()
            pause = timeout_s if due is None else min(timeout_s, due - now)
            if pause > 0:
                self._changed.wait(pause)

    def tick(self, now: float) -> bool:
        """Flush if it is time; False when it is not."""
        self._topic_refuses = self._blocked.is_refusing(now)
        batch = self._next(now)
        if batch is None:
            self._look_for_right(now)
            # A broker that is down has 20 error events a second for whoever polls.
            self._transport.serve()
            return False
        if self._failing_since is None:
            self._failing_since = now
        try:
            self._flush(batch, now)
        except Refused as refused:
            self._go_on(self._recovery.after_refusal(batch, self._parts, refused, now), now)
        except (TryAgain, RegistryUnavailable) as error:
            self._right = error.right if isinstance(error, TryAgain) else None
            self._go_on(self._recovery.after_failure(batch, self._parts, error, now), now)
        else:
            self._on_durable(batch, now)
        if not self._pending:
            # Only blocked outcomes are left, and they have a sentence of their own.
            self._failing_since = None
        self._blocked_sentence = self._blocked.sentence()
        metrics.BLOCKED.set(len(self._blocked))
        return True

    def open(self) -> None:
        """End a dead predecessor's open transaction, which holds up the next owners of its partitions."""
        try:
            self._transport.open()
        except TryAgain as error:
            _log.warning("producer_not_open", error=str(error))
            self._right = error.right

    def _look_for_right(self, now: float) -> None:
        """See whether a missing right is back: a worker that is not ready may get nothing that would show it."""
        if self._right is None or now < self._try_right_at:
            return
        self._try_right_at = now + _RIGHT_AGAIN_S
        try:
            self._transport.prepare()
        except TryAgain as error:
            self._right = error.right or self._right
        else:
            self._right = None

    def close(self) -> None:
        """Close the producer."""
        self._transport.close()

    def _due(self) -> float | None:
        if self._pending:
            return self._retry_at
        times = [time for time in (self._items_due, self._blocked.due()) if time is not None]
        return min(times, default=None)

    def _next(self, now: float) -> Batch | None:
        """The batch to send now; None when none is due."""
        with self._changed:
            due = self._due()
            if due is None or now < due:
                return None
            if self._pending:
                return self._pending[0]
            items: list[Item] = []
            if self._items_due is not None and self._items_due <= now:
                items, self._items = self._items, []
                self._items_due = None
            # At once, so that `idle` does not see a moment without a batch.
            batch = Batch()
            self._pending.append(batch)
            self._recovery.tries = 0
        if items:
            self._sort(items, batch, now)
        else:
            outcome = self._blocked.take(now)
            batch.outcomes += [] if outcome is None else [outcome]
        return batch

    def _sort(self, items: list[Item], batch: Batch, now: float) -> None:
        for item in items:
            match item:
                case Outcome():
                    topic = item.messages[0].topic
                    cause = self._blocked.refuses(topic, now)
                    if cause is None:
                        batch.outcomes.append(item)
                    else:
                        self._recovery.keep_aside(item, topic, cause, now)
                case Notice():
                    batch.notices.append(item)
                case Touch():
                    batch.touched.update(item.partitions)
                case Start():
                    self._begin(item.job, batch)

    def _begin(self, job: Job, batch: Batch) -> None:
        with self._books.lock:
            wanted = self._books.owns(job.origin) and not self._books.is_closing(job.origin)
            count = self._books.start(job.origin) if wanted else 0
        if wanted:
            batch.starts.append((job, count))
            batch.touched.add(place(job.origin))
        else:
            self._hooks.on_not_owned(job.origin)

    def _flush(self, batch: Batch, now: float) -> None:
        # What may wait (for a coordinator, or for the schema registry) comes before the look into the books.
        self._transport.prepare(again=self._recovery.tries > 0)
        records = encode_all(self._codec, batch)
        membership = self._transport.membership()
        try:
            offsets = self._compose(batch, now)
            if self._parts or offsets:
                self._send(
                    [record_of(records, index, part) for index, part in enumerate(self._parts)], offsets, membership
                )
        finally:
            self._under_way = None
        with self._books.lock:
            self._books.finish(outcome.origin for outcome in batch.outcomes)
            # The log's end was reached meanwhile, and what has just ended was in its way.
            passed = tuple(o.place for o in offsets if o.finishing and self._books.has_passed(o.place, o.offset))
        if passed:
            self.enqueue(Touch(passed, at_once=False), now)

    def _compose(self, batch: Batch, now: float) -> list[Offset]:
        """Set the parts to send of the batch, by the books as they are now; returns the offsets to commit."""
        with self._books.lock:
            self._flush_number += 1
            self._under_way = self._flush_number
            self._release_unowned(batch, now)
            finishing = {outcome.origin for outcome in batch.outcomes}
            notices = [n for n in batch.notices if self._books.owns(n.origin) and n.origin not in finishing]
            # With offsets of its partition, so that the broker's check of the membership stops a late notice.
            noticed = {place(notice.origin) for notice in notices}
            commits = self._books.commits(finishing, also=batch.touched | noticed)
        self._parts = [part for part in parts_of(batch.outcomes, notices) if not self._is_left_out(part, now)]
        ending = {place(origin) for origin in finishing}
        return [
            Offset(c.topic, c.partition, c.offset, c.metadata, (c.topic, c.partition) in ending, c.leader_epoch)
            for c in commits
        ]

    def _is_left_out(self, part: Part, now: float) -> bool:
        """Whether a notice or a status is for a topic that refuses everything now."""
        if part.is_result or self._blocked.refuses(part.message.topic, now) is None:
            return False
        metrics.LEFT_OUT.inc()
        return True

    def _send(self, records: list[Encoded], offsets: list[Offset], membership: Membership) -> None:
        before, result = time.perf_counter(), "failed"
        self._offsets = {}
        try:
            self._offsets = self._transport.send(records, offsets, membership, again=self._recovery.tries > 0)
            result = "committed"
        finally:
            seconds = time.perf_counter() - before
            metrics.TRANSACTION.labels(result).observe(seconds)
        metrics.PHASE.labels("publish").observe(seconds)

    def _release_unowned(self, batch: Batch, now: float) -> None:
        """Release the outcomes of records that have another owner by now."""
        for outcome in batch.outcomes:
            if not self._books.owns(outcome.origin):
                metrics.UNOWNED_RESULTS.inc()
                _log.info("result_released", **logs.about_outcome(outcome))
                self._blocked.remove(outcome, now)
                self._hooks.on_not_owned(outcome.origin)
        batch.outcomes = [outcome for outcome in batch.outcomes if self._books.owns(outcome.origin)]

    def _on_durable(self, batch: Batch, now: float) -> None:
        for job, count in batch.starts:
            self._hooks.on_started(job, count)
        for index, part in enumerate(self._parts):
            if index in self._offsets and part.is_result:
                self._hooks.on_written(part.owner.origin, self._offsets[index])
        for outcome in batch.outcomes:
            self._blocked.remove(outcome, now)
            self._hooks.on_committed(outcome.origin)
        self._failing_since = None
        self._right = None
        self._replace_first([], now)

    def _go_on(self, way: float | list[Batch], now: float) -> None:
        """After a flush that did not pass: the same again after a pause in seconds, or these batches in its place."""
        if isinstance(way, list):
            self._replace_first(way, now)
        else:
            with self._changed:
                self._retry_at = now + way

    def _replace_first(self, batches: list[Batch], now: float) -> None:
        self._recovery.tries = 0
        with self._changed:
            self._pending.popleft()
            self._pending.extendleft(reversed(batches))
            self._retry_at = now


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
