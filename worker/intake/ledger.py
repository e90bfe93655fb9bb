"""The books: which records of which partition are delivered, started and finished. Pure.

Jobs finish out of order, so a partition's committed offset is that of its lowest unfinished record, and the records
finished above it go into the commit's metadata (`completion`). Several threads use one ledger; each holds `lock`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from worker.errors import ProtocolError
from worker.intake import offset_metadata
from worker.intake.offset_metadata import CompletionMap
from worker.job import Origin

TopicPartition = tuple[str, int]

# Records that are remembered above the lowest unfinished one, and walked through by every commit.
DELIVERED_MAX = 5_000


@dataclass(frozen=True, slots=True)
class Commit:
    """What to commit for one partition.

    `leader_epoch`: the highest leader epoch of the records that were read, so that whoever goes on from here can tell
    a log that has lost its end. None where it is not known.
    """

    topic: str
    partition: int
    offset: int
    metadata: str
    leader_epoch: int | None = None


@dataclass(slots=True)
class _Partition:
    epoch: int
    restored: CompletionMap
    opened_at: int | None
    position: int | None
    # Of what the committed map knows, and the highest of all that was read.
    restored_epoch: int | None = None
    topic_id: str | None = None
    leader_epoch: int | None = None
    closing: bool = False
    # Delivered offsets from the lowest unfinished one on, ascending, and whether each is finished.
    # Ordered, since a plain dict gets slower with every entry that is deleted at its front.
    delivered: OrderedDict[int, bool] = field(default_factory=OrderedDict)
    starts: dict[int, int] = field(default_factory=dict)
    released: set[int] = field(default_factory=set)
    unfinished: int = 0
    metadata_bytes: int = 0


@dataclass(slots=True)
class Ledger:
    """Delivered, started and finished records of the assigned partitions."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    _partitions: dict[TopicPartition, _Partition] = field(default_factory=dict)
    _epoch: int = 0

    def assign(
        self,
        topic: str,
        partition: int,
        committed: int | None,
        metadata: str | None,
        leader_epoch: int | None = None,
        *,
        end: int | None = None,
    ) -> int:
        """Open a partition at its committed offset; returns the epoch of this assignment.

        Args:
            leader_epoch: that was committed with the offset.
            end: where the log has lost its end: it goes on from here, and what was above is not known any more.
        """
        self._epoch += 1
        restored = CompletionMap() if committed is None else offset_metadata.decode(committed, metadata)
        if committed is not None and end is not None:
            committed, restored = min(committed, end), restored.below(end)
        book = _Partition(self._epoch, restored, committed, committed, starts=dict(restored.starts))
        book.restored_epoch = book.leader_epoch = leader_epoch
        book.topic_id = restored.topic_id
        self._partitions[topic, partition] = book
        return self._epoch

    def revoke(self, partitions: Iterable[TopicPartition]) -> None:
        """Close partitions; whatever comes late for them is no longer owned."""
        for key in partitions:
            self._partitions.pop(key, None)

    def close(self, partitions: Iterable[TopicPartition]) -> None:
        """Take nothing new from partitions that are about to be revoked."""
        for key in partitions:
            if key in self._partitions:
                self._partitions[key].closing = True

    def deliver(self, topic: str, partition: int, offset: int, leader_epoch: int | None = None) -> Origin | None:
        """Note a record that came from Kafka; None where it is finished already, or delivered twice.

        Args:
            leader_epoch: of the record.
        """
        book = self._partitions[topic, partition]
        if offset in book.delivered or (book.position is not None and offset < book.position):
            return None
        if leader_epoch is not None:
            if book.restored_epoch is not None and leader_epoch > book.restored_epoch:
                self._forget_lost(book, offset, leader_epoch)
            book.leader_epoch = max(leader_epoch, -1 if book.leader_epoch is None else book.leader_epoch)
        finished = offset in book.restored
        book.delivered[offset] = finished
        book.opened_at = offset if book.opened_at is None else book.opened_at
        book.position = offset + 1
        if finished:
            self._trim(book)
            return None
        book.unfinished += 1
        return Origin(topic, partition, offset, book.epoch)

    def reach(self, key: TopicPartition, offset: int, leader_epoch: int | None) -> bool:
        """Nothing below this offset is still to come: what was not delivered is no record, or is gone.

        Args:
            leader_epoch: of the log's end, at or above `offset`.

        Returns:
            whether that moves the offset to commit of a partition of which nothing is unfinished.
        """
        book = self._partitions[key]
        if book.position is not None and offset <= book.position:
            return False
        book.opened_at = offset if book.opened_at is None else book.opened_at
        book.position = offset
        # Without one, what is below might belong to a later epoch than the last record's: better none than a wrong one.
        # But where the map knows more, that is of its own epoch: the log has lost it, if its end is really here.
        if not book.restored.knows_from(offset):
            is_older = leader_epoch is not None and leader_epoch < (book.leader_epoch or 0)
            book.leader_epoch = None if is_older else leader_epoch
        return not book.delivered

    def topic_id(self, key: TopicPartition) -> str | None:
        """The id of the topic that the offsets are of; None where it is not known."""
        return self._partitions[key].topic_id

    def learn_topic_id(self, key: TopicPartition, topic_id: str) -> None:
        """The next commits say of which topic they are."""
        self._partitions[key].topic_id = topic_id

    def leader_epoch(self, key: TopicPartition) -> int | None:
        """The highest leader epoch of what was read."""
        return self._partitions[key].leader_epoch

    def unread(self, key: TopicPartition, end: int) -> int:
        """How many offsets between the position and `end` are not known to be finished."""
        book = self._partitions[key]
        first = end if book.position is None else book.position
        return max(0, end - first) - book.restored.count(first, end)

    def was_read(self, key: TopicPartition) -> range:
        """The offsets from where the partition was opened to the highest delivered one; empty before the first."""
        book = self._partitions[key]
        return range(0) if book.position is None else range(book.opened_at or 0, book.position)

    def is_through(self, key: TopicPartition) -> bool:
        """Whether all that was delivered is finished, so that no outcome is still to come and commit the position."""
        return not self._partitions[key].delivered

    def owns(self, origin: Origin) -> bool:
        """Whether the record belongs to a current assignment and somebody here still works on it."""
        book = self._partitions.get((origin.topic, origin.partition))
        return (
            book is not None
            and book.epoch == origin.epoch
            and book.delivered.get(origin.offset) is False
            and origin.offset not in book.released
        )

    def is_closing(self, origin: Origin) -> bool:
        """Whether nothing new should be begun for this record."""
        book = self._partitions.get((origin.topic, origin.partition))
        return book is None or book.epoch != origin.epoch or book.closing

    def starts(self, origin: Origin) -> int:
        """How often the record was started, here and in lives before."""
        return self._partitions[origin.topic, origin.partition].starts.get(origin.offset, 0)

    def start(self, origin: Origin) -> int:
        """Count one more start; it is durable with the next commit. Returns the count."""
        book = self._owned(origin)
        book.starts[origin.offset] = book.starts.get(origin.offset, 0) + 1
        return book.starts[origin.offset]

    def release(self, origin: Origin) -> None:
        """Release a record that leaves without an outcome; its starts in this life are taken back.

        The next owner begins it anew. Starts of lives before, which ended in a crash, still count.
        """
        if not self.owns(origin):
            return
        book = self._owned(origin)
        before = book.restored.starts.get(origin.offset, 0)
        if before:
            book.starts[origin.offset] = before
        else:
            book.starts.pop(origin.offset, None)
        # For the commit it stays unfinished, but nobody waits for it any more.
        book.released.add(origin.offset)
        book.unfinished -= 1

    def finish(self, origins: Iterable[Origin]) -> None:
        """Note what a commit has made durable."""
        for origin in origins:
            if self.owns(origin):
                book = self._owned(origin)
                book.delivered[origin.offset] = True
                book.starts.pop(origin.offset, None)
                book.unfinished -= 1
                self._trim(book)

    def commits(self, finishing: Collection[Origin], also: Iterable[TopicPartition] = ()) -> list[Commit]:
        """What to commit so that `finishing` are finished too, for their partitions and `also`."""
        ending: dict[TopicPartition, set[int]] = {}
        for origin in finishing:
            offsets = ending.setdefault((origin.topic, origin.partition), set())
            if self.owns(origin):
                offsets.add(origin.offset)
        for key in also:
            ending.setdefault(key, set())
        return [self._commit(key, offsets) for key, offsets in ending.items() if self._committable(key)]

    def unfinished(self, partitions: Iterable[TopicPartition] | None = None) -> int:
        """Records between delivery and commit, of these partitions or of all."""
        keys = self._partitions if partitions is None else partitions
        return sum(self._partitions[key].unfinished for key in keys if key in self._partitions)

    def is_crowded(self, key: TopicPartition) -> bool:
        """Whether too much stands above one unfinished record: for the broker's limit on metadata, or for memory."""
        book = self._partitions.get(key)
        if book is None:
            return False
        return book.metadata_bytes > offset_metadata.PAUSE_BYTES or len(book.delivered) >= DELIVERED_MAX

    def partitions(self) -> list[TopicPartition]:
        """The open partitions."""
        return list(self._partitions)

    def positions(self) -> list[tuple[TopicPartition, int, int]]:
        """Open partitions with their epoch and the offset to be delivered next; 0 before the first."""
        return [(key, book.epoch, book.position or 0) for key, book in self._partitions.items()]

    def next_offset(self, key: TopicPartition) -> int | None:
        """The offset to be delivered next; None before the first."""
        return self._partitions[key].position

    def has_passed(self, key: TopicPartition, offset: int) -> bool:
        """Whether a higher offset than this is to be committed."""
        position = self.position(key) if key in self._partitions else None
        return position is not None and position > offset

    def position(self, key: TopicPartition) -> int | None:
        """The lowest unfinished offset, or the next to be delivered; None before the first."""
        book = self._partitions[key]
        lowest = next((offset for offset, done in book.delivered.items() if not done), book.position)
        return None if lowest is None else book.restored.past(lowest)

    def _owned(self, origin: Origin) -> _Partition:
        if not self.owns(origin):
            raise ProtocolError(f"{origin} is not owned or finished already")
        return self._partitions[origin.topic, origin.partition]

    def _committable(self, key: TopicPartition) -> bool:
        book = self._partitions.get(key)
        return book is not None and book.position is not None

    def _commit(self, key: TopicPartition, ending: Collection[int]) -> Commit:
        book = self._partitions[key]
        assert book.position is not None
        walk = [(offset, done or offset in ending) for offset, done in book.delivered.items()]
        # No flush may come for what the restored map knows to be finished, so a commit passes it before it is read.
        base = next((offset for offset, done in walk if not done), book.restored.past(book.position))
        runs = offset_metadata.runs_of((offset, done) for offset, done in walk if offset > base)
        runs += [(max(a, book.position), b) for a, b in book.restored.finished if b > max(base, book.position)]
        starts = {o: n for o, n in book.starts.items() if o >= base and o not in ending}
        metadata = offset_metadata.encode(base, offset_metadata.joined(runs), starts, book.topic_id)
        book.metadata_bytes = len(metadata)
        return Commit(*key, base, metadata, book.leader_epoch)

    @staticmethod
    def _forget_lost(book: _Partition, offset: int, leader_epoch: int) -> None:
        """A record was written after the map: what that knows from here on is of others, which the log has lost."""
        book.restored = book.restored.below(offset)
        book.starts = {known: count for known, count in book.starts.items() if known < offset}
        book.restored_epoch = leader_epoch

    @staticmethod
    def _trim(book: _Partition) -> None:
        while book.delivered and book.delivered[next(iter(book.delivered))]:
            book.delivered.popitem(last=False)
