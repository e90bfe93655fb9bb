"""The loop of `sdxl-worker webhooks`: read results, send them, commit what is delivered.

One thread and one event loop: the consumer is polled without waiting, so that its callbacks, the queue and the books
need no locks, and requests are tasks.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from worker.events.codec import EventCodec
from worker.events.record_headers import read_headers
from worker.telemetry import metrics
from worker.telemetry.health import Health
from worker.webhooks.attempts import Attempts, News, Sends
from worker.webhooks.progress import Partition, Progress
from worker.webhooks.queue import Delivery, DeliveryQueue

_log = structlog.get_logger()

IDLE_S = 0.02
COMMIT_EVERY_S = 1.0
# Deliveries in memory at which reading pauses, for each request that may be under way; it goes on at half of them.
BUFFER_PER_REQUEST = 8
# Records above an unfinished one at which its partition is paused: they would be sent again after a crash.
MAX_WINDOW = 20_000
_POLLS_PER_TURN = 64
# The client goes on by itself: it connects again, or joins the group again after it was thrown out for its silence.
_PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._MAX_POLL_EXCEEDED,
    }
)
_NO_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION})


class Webhooks:
    """Consumes completed and failed events and delivers each at least once.

    Args:
        consumer: a group member that is not subscribed yet; it is closed by `run`.
        concurrency: the largest number of requests at once.
        max_pause_s: the longest pause between attempts while the receiver fails.
        drain_s: how long requests that are under way may go on once `stopping` is true.
    """

    def __init__(
        self,
        consumer: Any,
        topics: tuple[str, str],
        codec: EventCodec,
        sender: Sends,
        *,
        concurrency: int,
        max_pause_s: float,
        drain_s: float,
        health: Health | None = None,
    ) -> None:
        self._consumer = consumer
        self._topics = topics
        self._buffer = concurrency * BUFFER_PER_REQUEST
        self._drain_s = drain_s
        self._health = health
        self._queue = DeliveryQueue(concurrency, max_pause_s, random.random)
        self._progress = Progress()
        self._news = News()
        self._attempts = Attempts(self._queue, self._progress, codec, sender, self._news)
        self._tasks: dict[Delivery, asyncio.Task[None]] = {}
        self._assigned: set[Partition] | None = None
        self._paused: set[Partition] = set()
        self._maybe_paused: set[Partition] = set()
        self._is_full = False
        self._commit_at = 0.0

    def not_ready(self) -> list[str]:
        """Why it can deliver nothing now."""
        return ["the group has not given it partitions yet"] if self._assigned is None else []

    def facts(self) -> dict[str, Any]:
        """For `/health`."""
        return {
            "assigned_partitions": len(self._assigned or ()),
            "waiting": len(self._queue),
            "under_way": self._queue.under_way,
            "receiver_up": not self._queue.is_failing,
        }

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Deliver until `stopping`; then end the requests that are under way, commit, and leave the group.

        Raises:
            KafkaException: reading cannot go on.
        """
        self._consumer.subscribe(
            list(self._topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        try:
            while not stopping():
                await self._turn(time.monotonic())
            if self._tasks:
                await asyncio.wait(self._tasks.values(), timeout=self._drain_s)
                self._reap()
        finally:
            for task in self._tasks.values():
                task.cancel()
            # Leaving the group revokes the partitions, which commits.
            self._consumer.close()

    async def _turn(self, now: float) -> None:
        if self._health is not None:
            self._health.beat("webhooks")
        read = 0
        while read < _POLLS_PER_TURN and self._poll(now):
            read += 1
        self._reap()
        while (delivery := self._queue.take(now)) is not None:
            self._tasks[delivery] = asyncio.create_task(self._attempts.make(delivery))
        self._hold_back()
        if now >= self._commit_at:
            self._commit_at = now + COMMIT_EVERY_S
            self._commit(self._progress.to_commit(), asynchronous=True)
        metrics.WEBHOOKS_WAITING.set(len(self._queue))
        metrics.WEBHOOK_RECEIVER_UP.set(not self._queue.is_failing)
        await asyncio.sleep(0 if read else IDLE_S)

    def _reap(self) -> None:
        """Forget the tasks that have ended. Raises what one of them did not expect."""
        for delivery, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[delivery]
                if not task.cancelled():
                    task.result()

    def _poll(self, now: float) -> bool:
        message = self._consumer.poll(0)
        if message is None:
            return False
        error = message.error()
        if error is None:
            self._take_in(message, now)
        elif error.code() == KafkaError._PARTITION_EOF:
            self._progress.reach_end((message.topic(), message.partition()), message.offset())
        elif error.code() in _NO_TOPIC:
            self._news.tell(now, "topic_missing", error=error.str(), hint="`sdxl-worker topics create` creates it")
        elif error.fatal() or not (error.retriable() or error.code() in _PASSING):
            raise KafkaException(error)
        return True

    def _take_in(self, message: Message, now: float) -> None:
        place = (str(message.topic()), message.partition() or 0, message.offset() or 0)
        self._progress.begin(place[:2], place[2])
        key, value = message.key(), message.value()
        # A record without a key is in nobody's order.
        job = repr(place).encode() if key is None else _bytes(key)
        self._queue.add(Delivery(job, place, None if value is None else _bytes(value), read_headers(message), now))

    def _hold_back(self) -> None:
        """Pause what would fill the memory, and resume what no longer does; each only where it changes something."""
        waiting = len(self._queue)
        self._is_full = waiting >= (self._buffer // 2 if self._is_full else self._buffer)
        assigned = self._assigned or set()
        wanted = {p for p in assigned if self._is_full or self._progress.length(p) >= MAX_WINDOW}
        for call, partitions in (
            (self._consumer.pause, wanted - self._paused),
            (self._consumer.resume, ((self._paused | self._maybe_paused) - wanted) & assigned),
        ):
            if partitions:
                call([TopicPartition(*partition) for partition in sorted(partitions)])
        self._paused, self._maybe_paused = wanted, set()

    def _commit(self, offsets: dict[Partition, int], *, asynchronous: bool) -> None:
        if not offsets:
            return
        places = [TopicPartition(*partition, offset) for partition, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=places, asynchronous=asynchronous)
        except KafkaException as error:
            # What is not committed is sent again later, with the same ids.
            _log.warning("webhook_commit_failed", error=error.args[0].str())
        else:
            self._progress.committed(offsets)

    def _on_assign(self, _consumer: Any, partitions: list[TopicPartition]) -> None:
        """The client assigns them itself, since this does not."""
        self._assigned = (self._assigned or set()) | _named(partitions)
        # librdkafka keeps a partition paused through revoke and assign.
        self._maybe_paused |= _named(partitions)

    def _on_revoke(self, _consumer: Any, partitions: list[TopicPartition]) -> None:
        # Once more what is on its way: nobody hears how a commit in the background ended.
        self._commit(self._progress.positions(_named(partitions)), asynchronous=False)
        self._release(partitions)

    def _on_lost(self, _consumer: Any, partitions: list[TopicPartition]) -> None:
        self._release(partitions)

    def _release(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget partitions; requests that are under way for them are ended, since the next owner repeats them."""
        gone = _named(partitions)
        for delivery in self._queue.remove(gone):
            if (task := self._tasks.pop(delivery, None)) is not None:
                task.cancel()
        self._progress.forget(gone)
        self._assigned = (self._assigned or set()) - gone
        self._paused -= gone


def _named(partitions: Iterable[TopicPartition]) -> set[Partition]:
    return {(partition.topic, partition.partition) for partition in partitions}


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
