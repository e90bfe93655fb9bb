"""Opens partitions at their committed offsets, and keeps books and consumer right when a log is not what it was.

The books (`ledger`) say what was read, the consumer's positions what is read next. Both change together here: when a
partition is opened, when its end is reached, and when the next offset is not there any more (`resets` says why).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import structlog
from confluent_kafka import KafkaError, Message, TopicPartition

from worker.intake.consumer_proxy import ConsumerProxy
from worker.intake.end_watch import EndWatch, Found, Learnt, Reached
from worker.intake.lane_members import LaneMembers
from worker.intake.ledger import Ledger
from worker.intake.ledger import TopicPartition as Key
from worker.intake.offset_metadata import decode
from worker.intake.positions import Positions
from worker.intake.resets import Cause, GoOn, Lost, divergence
from worker.telemetry import metrics

_log = structlog.get_logger()


class FollowerHooks(Protocol):
    """What is called here; see `consume.IntakeHooks`."""

    def commit_soon(self, partition: Key) -> None: ...
    def release_unowned(self) -> None: ...
    def wait_for_flush(self) -> None: ...


class LogFollower:
    """The poll thread's.

    Args:
        unpause: called before a partition is moved; a pause would outlive that, and its owner must know.
    """

    def __init__(
        self,
        members: LaneMembers,
        proxy: ConsumerProxy,
        ledger: Ledger,
        ends: EndWatch,
        positions: Positions,
        hooks: FollowerHooks,
        unpause: Callable[[Key], None],
    ) -> None:
        self._members = members
        self._proxy = proxy
        self._ledger = ledger
        self._ends = ends
        self._positions = positions
        self._hooks = hooks
        self._unpause = unpause
        # Partitions without a committed offset.
        self._uncommitted: set[Key] = set()

    # Partitions come and go.

    def open(self, partitions: Sequence[TopicPartition], now: float) -> None:
        """In a rebalance callback: enter new partitions into the books, and start reading them.

        Raises:
            OffsetsUnknown: nothing was opened.
        """
        places = self._proxy.committed_at_assignment(partitions)
        recreated = self._ends.recreated({_key(p): decode(p.offset, p.metadata).topic_id for p in places})
        for key in recreated:
            _log.warning("topic_recreated", topic=key[0], partition=key[1])
        places = [TopicPartition(*_key(p)) if _key(p) in recreated else p for p in places]
        with self._ledger.lock:
            for place in places:
                self._ledger.assign(*_key(place), _offset(place), place.metadata, place.leader_epoch)
            for key, topic_id in recreated.items():
                self._ledger.learn_topic_id(key, topic_id)
            topic_ids = {_key(place): self._ledger.topic_id(_key(place)) for place in places}
        self._uncommitted |= {_key(place) for place in places if _offset(place) is None}
        self._positions.assign(places)
        self._ends.on_assigned(topic_ids, now)

    def on_gone(self, keys: Collection[Key]) -> None:
        """Partitions go."""
        self._ends.on_gone(keys)
        self._uncommitted -= set(keys)

    # What the consumer tells.

    def on_event(self, message: Message, error: KafkaError) -> bool:
        """An event of a partition; False where it is not one for here."""
        if error.code() not in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET):
            return False
        key, offset = (str(message.topic()), message.partition() or 0), message.offset()
        with self._ledger.lock:
            if key not in self._ledger.partitions():
                return True
            next_offset = self._ledger.next_offset(key)
        if error.code() == KafkaError._PARTITION_EOF:
            if offset is not None and (next_offset is None or offset > next_offset):
                self._ends.on_end(key, offset)
        else:
            self._on_missing(key, next_offset if next_offset is not None else max(0, offset or 0), error.str())
        return True

    def _on_missing(self, key: Key, offset: int, text: str) -> None:
        """The consumer says that the offset to be read next is not there.

        Args:
            offset: of the books: an event may be older than the consumer's last move, and say another.
        """
        _log.warning("offset_not_there", topic=key[0], partition=key[1], offset=offset, error=text)
        with self._ledger.lock:
            leader_epoch = self._ledger.leader_epoch(key)
        diverges_at = divergence(text)
        if diverges_at is None:
            self._unpause(key)
            if self._positions.compares_again(key, offset, leader_epoch):
                return
        self._ends.on_lost(key, Lost(offset, leader_epoch, diverges_at))

    def on_record(self, key: Key, offset: int, now: float) -> None:
        """A record is about to be entered into the books."""
        if self._is_cut_short(key, offset):
            self._start_over(key, offset, None)
            self._ends.on_assigned({key: None}, now)

    def on_position(self, key: Key) -> None:
        """The partition's next offset is known, and is committed where none is."""
        if key in self._uncommitted:
            self._uncommitted.discard(key)
            self._hooks.commit_soon(key)

    def look(self, paused: Collection[Key], now: float) -> None:
        """Do what follows from what has been found out about the logs.

        Raises:
            OffsetsUnknown: where to read on is not known; the partition is off the books.
        """
        for event in self._ends.look(paused, now):
            with self._ledger.lock:
                is_ours = event.key in self._ledger.partitions()
            if not is_ours:
                continue
            match event:
                case Reached(key, offset, leader_epoch):
                    self._pass(key, offset, leader_epoch)
                case Found(key, lost, found, topic_id):
                    self._go_on(key, lost, found, topic_id)
                case Learnt(key, topic_id):
                    with self._ledger.lock:
                        self._ledger.learn_topic_id(key, topic_id)
                    self._hooks.commit_soon(key)

    def _pass(self, key: Key, offset: int, leader_epoch: int | None) -> None:
        """No record is left below this offset."""
        with self._ledger.lock:
            has_moved = self._ledger.reach(key, offset, leader_epoch)
        if has_moved:
            self._uncommitted.discard(key)
            self._hooks.commit_soon(key)

    def _go_on(self, key: Key, lost: Lost, found: GoOn, topic_id: str | None) -> None:
        """Read on where `resets` says, and say what is lost."""
        offset: int | None = found.offset
        with self._ledger.lock:
            unread = self._ledger.unread(key, found.offset)
        match found.cause:
            case Cause.RECREATED:
                self._start_over(key, found.offset, topic_id)
            case Cause.RETENTION:
                metrics.LOST_OFFSETS.labels("retention").inc(unread)
                _log.error("records_expired_unread", topic=key[0], partition=key[1], offsets=unread, goes_on_at=offset)
                self._pass(key, found.offset, None)
            case Cause.LOST_END:
                gone = lost.offset - found.offset
                metrics.LOST_OFFSETS.labels("lost_end").inc(gone)
                _log.error("log_end_lost", topic=key[0], partition=key[1], offsets=gone, goes_on_at=offset)
                offset = self._cut_back(key, found.offset, knows_epoch=lost.knows_epoch)
            case Cause.NOTHING:
                with self._ledger.lock:
                    offset = self._ledger.next_offset(key)
        with self._ledger.lock:
            leader_epoch = self._ledger.leader_epoch(key)
        self._unpause(key)
        self._positions.move(key, offset, leader_epoch)

    def _cut_back(self, key: Key, end: int, *, knows_epoch: bool) -> int | None:
        """The log has lost what was above this offset; returns where to read on, None for the beginning.

        What is above is another record from now on, so nothing that is known of it holds, and nothing that was begun.

        Args:
            knows_epoch: whether the log still knows the epoch of what is left; else it is of no use any more.
        """
        with self._ledger.lock:
            self._ledger.revoke([key])
        self._hooks.wait_for_flush()
        [place] = self._proxy.committed_at_assignment([TopicPartition(*key)])
        with self._ledger.lock:
            leader_epoch = place.leader_epoch if knows_epoch else None
            self._ledger.assign(*key, _offset(place), place.metadata, leader_epoch, end=end)
            offset = self._ledger.next_offset(key)
        self._hooks.release_unowned()
        self._hooks.commit_soon(key)
        return offset

    def _is_cut_short(self, key: Key, offset: int) -> bool:
        """Whether the topic was recreated, or has lost its end: a record below what was read, and not of it."""
        with self._ledger.lock:
            read = self._ledger.was_read(key)
        if offset >= read.stop:
            return False
        watermarks = self._members.watermarks(*key)
        if offset < read.start or (watermarks is not None and 0 <= watermarks[1] < read.stop):
            return True
        _log.warning("delivered_again", topic=key[0], partition=key[1], offset=offset)
        return False

    def _start_over(self, key: Key, offset: int, topic_id: str | None) -> None:
        """What a topic that was created again holds is new, and what is known of it is of no use."""
        _log.warning("partition_started_over", topic=key[0], partition=key[1], offset=offset)
        with self._ledger.lock:
            self._ledger.revoke([key])
        self._hooks.wait_for_flush()
        with self._ledger.lock:
            self._ledger.assign(*key, offset, None)
            if topic_id is not None:
                self._ledger.learn_topic_id(key, topic_id)
        self._hooks.release_unowned()
        self._hooks.commit_soon(key)


def _key(place: TopicPartition) -> Key:
    return place.topic, place.partition


def _offset(place: TopicPartition) -> int | None:
    """The committed offset; None where there is none."""
    return place.offset if place.offset >= 0 else None
