"""The poll loop: records in, backpressure, rebalances. Nothing here blocks on S3 or the GPU.

Rules that others learnt the hard way: poll always, paused or not, or the group throws a member out; poll records one
by one, since batches of `consume()` skip offsets beside pauses (librdkafka#4208); never commit in on_lost; librdkafka
keeps a partition paused through a revoke, so the pause ends before the partition goes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from worker.intake.consumer_proxy import ConsumerProxy, OffsetsUnknown
from worker.intake.end_watch import EndWatch
from worker.intake.lane_members import LaneMembers, cause_of, has_given_up, is_replaced
from worker.intake.ledger import Ledger
from worker.intake.ledger import TopicPartition as Key
from worker.intake.log_follower import LogFollower
from worker.intake.positions import Positions
from worker.intake.records import Record, read_record
from worker.intake.reopen import Reopener
from worker.job import Lane, Origin
from worker.settings import Settings
from worker.telemetry import metrics

_log = structlog.get_logger()

# A paused partition goes on at this share of its limit, so that it does not flap (librdkafka#2052).
_RESUME_SHARE = 0.5


class IntakeHooks(Protocol):
    """What intake calls (`lifecycle.partitions.PartitionChanges`); all but the two that wait return at once."""

    def commit_soon(self, partition: Key) -> None: ...
    def release_unowned(self) -> None: ...

    def release_partitions(self, partitions: Sequence[Key]) -> None:
        """Waits for running jobs and a last commit, within bounds."""

    def wait_for_flush(self) -> None:
        """Waits for a flush that is under way, within bounds."""


class RecordReader(Protocol):
    """What is done with a record that came (`request_reader.RequestReader`); nothing of it waits."""

    def take(self, record: Record, origin: Origin) -> None: ...

    def retry_held(self) -> None:
        """Go on with records that wait for something outside the process."""

    def release(self, partitions: Collection[Key]) -> None:
        """Release what waits of these partitions; the caller holds the ledger's lock."""


class Intake:
    """Owns the group members; one thread calls it, and librdkafka's callbacks run on that thread too.

    Args:
        topics: the request topics, in the order of `Lane`.
        reader: gets each record once.
        on_delivered: called for every new record with topic, partition, offset and the time it was written.
        on_error: called with every error of a member, the causes of fatal ones too.
        on_rebalance: called after partitions have come or gone.
        rounds: how often a member is polled in a tick while it has records; a partition may have that many more than
            its buffer.
        is_full: whether a partition is to be paused although its buffer has room for more records.
    """

    def __init__(
        self,
        members: LaneMembers,
        proxy: ConsumerProxy,
        ledger: Ledger,
        ends: EndWatch,
        positions: Positions,
        reader: RecordReader,
        hooks: IntakeHooks,
        settings: Settings,
        topics: Sequence[str],
        now: Callable[[], float],
        on_delivered: Callable[[str, int, int, float], None],
        on_error: Callable[[KafkaError], None] = lambda _error: None,
        on_rebalance: Callable[[], None] = lambda: None,
        rounds: int = 1,
        is_full: Callable[[Key], bool] = lambda _partition: False,
    ) -> None:
        self._members = members
        self._proxy = proxy
        self._ledger = ledger
        self._log = LogFollower(members, proxy, ledger, ends, positions, hooks, self._unpause)
        self._reopener = Reopener(members, ledger)
        self._positions = positions
        self._reader = reader
        self._hooks = hooks
        self._settings = settings
        self._lanes = dict(zip(topics, Lane, strict=True))
        self._requests = {topic: metrics.REQUESTS.labels(lane.label) for topic, lane in self._lanes.items()}
        self._now = now
        self._on_delivered = on_delivered
        self._on_error = on_error
        self._on_rebalance = on_rebalance
        self._rounds = rounds
        self._is_full = is_full
        self._paused: set[Key] = set()
        self._stopping = False

    def subscribe(self) -> None:
        """Join the group, once for each lane."""
        self._members.subscribe(self._on_assign, self._on_revoke, self._on_lost)
        # Partitions may come with the first poll, and be committed before the others have been polled.
        self._proxy.serve()

    def stop(self) -> None:
        """Take nothing new; polling goes on so that the group keeps this member until it leaves."""
        self._stopping = True

    def tick(self, timeout_s: float) -> None:
        """Poll each member, and those that have records some more times, then put the pauses right."""
        # The most urgent lane last, for its poll is the one that may wait.
        topics = self._poll_each(tuple(reversed(self._lanes)), timeout_s)
        for _ in range(self._rounds - 1):
            if not topics:
                break
            topics = self._poll_each(topics, 0.0)
        self._proxy.serve()
        try:
            self._log.look(self._paused, self._now())
        except OffsetsUnknown as unknown:
            for topic in unknown.topics:
                self._give_up(topic, str(unknown))
        self._reader.retry_held()
        self._balance()
        self._reopener.look(self._paused, self._now())

    def _poll_each(self, topics: Sequence[str], timeout_s: float) -> Sequence[str]:
        """Poll these members once, the last one with the wait if nothing came before; returns those with a record."""
        with_records: list[str] = []
        for topic in topics:
            try:
                message = self._members.poll(topic, timeout_s if topic == topics[-1] and not with_records else 0.0)
            except OffsetsUnknown as unknown:
                self._give_up(topic, str(unknown))
                continue
            if message is not None:
                with_records.append(topic)
                self._take(message, topic)
        return with_records

    def _give_up(self, topic: str, why: str) -> None:
        """Go on with another member of this topic, which will be told anew what it is to read."""
        with self._ledger.lock:
            held = [TopicPartition(*key) for key in self._ledger.partitions() if key[0] == topic]
        self._on_lost(held)
        self._members.give_up(topic, why)

    def _take(self, message: Message, topic: str) -> None:
        error = message.error()
        if error is not None:
            if is_replaced(error):
                raise KafkaException(error)
            if has_given_up(error):
                self._on_error(cause_of(error))
                self._give_up(topic, error.str())
                return
            if not self._log.on_event(message, error):
                _log.warning("consume_error", error=error.str(), code=error.name())
                self._on_error(error)
            return
        record = read_record(message, self._now())
        key = record.topic, record.partition
        self._log.on_record(key, record.offset, self._now())
        with self._ledger.lock:
            origin = self._ledger.deliver(*key, record.offset, record.leader_epoch)
            is_through = self._ledger.is_through(key)
        if origin is None and is_through:
            self._hooks.commit_soon(key)
        self._log.on_position(key)
        if origin is not None:
            self._requests[record.topic].inc()
            self._on_delivered(*key, record.offset, self._now() if record.written_at is None else record.written_at)
            self._reader.take(record, origin)

    def _balance(self) -> None:
        """Pause partitions whose buffer is full, resume those that have drained; never the same twice."""
        limit = self._settings.buffer_per_partition
        with self._ledger.lock:
            keys = self._ledger.partitions()
            load = {
                key: (self._ledger.unfinished([key]), self._ledger.is_crowded(key) or self._is_full(key))
                for key in keys
            }
        full = {key for key, (jobs, crowded) in load.items() if self._stopping or crowded or jobs >= limit}
        calm = {
            key
            for key, (jobs, crowded) in load.items()
            if not self._stopping and not crowded and jobs <= limit * _RESUME_SHARE
        }
        to_pause, to_resume = full - self._paused, calm & self._paused
        if to_pause:
            self._members.pause(TopicPartition(*key) for key in to_pause)
        if to_resume:
            self._members.resume(TopicPartition(*key) for key in to_resume)
        self._paused = (self._paused | to_pause) - to_resume
        metrics.PAUSED.set(len(self._paused))
        metrics.UNFINISHED.set(sum(jobs for jobs, _ in load.values()))

    def _unpause(self, key: Key) -> None:
        if key in self._paused:
            self._members.resume([TopicPartition(*key)])
            self._paused.discard(key)

    def _on_assign(self, partitions: list[TopicPartition]) -> None:
        if partitions:
            self._hooks.wait_for_flush()
            try:
                self._log.open(partitions, self._now())
            except OffsetsUnknown:
                self._positions.hold(partitions)
                raise
        self._on_rebalance()
        _log.info("assigned", partitions=_names(partitions))

    def _on_revoke(self, partitions: list[TopicPartition]) -> None:
        keys = self._close_partitions(partitions)
        self._hooks.release_partitions(keys)
        with self._ledger.lock:
            self._ledger.revoke(keys)
        # The broker keeps our epoch where the next rebalance follows at once, and would let a late flush pass.
        self._hooks.wait_for_flush()
        self._on_rebalance()
        _log.info("revoked", partitions=_names(partitions))

    def _on_lost(self, partitions: list[TopicPartition]) -> None:
        keys = self._close_partitions(partitions)
        with self._ledger.lock:
            self._ledger.revoke(keys)
        self._hooks.release_unowned()
        _log.warning("lost", partitions=_names(partitions))

    def _close_partitions(self, partitions: list[TopicPartition]) -> list[Key]:
        """The partitions among these that are really ours, no longer paused and closed to new work."""
        keys = [(place.topic, place.partition) for place in partitions]
        with self._ledger.lock:
            keys = [key for key in keys if key in set(self._ledger.partitions())]
            self._ledger.close(keys)
            self._log.on_gone(keys)
            self._reader.release(keys)
        paused = self._paused & set(keys)
        if paused:
            self._members.resume(TopicPartition(*key) for key in paused)
        self._paused -= paused
        return keys


def _names(partitions: Sequence[TopicPartition]) -> list[str]:
    return [f"{place.topic}/{place.partition}" for place in partitions]
