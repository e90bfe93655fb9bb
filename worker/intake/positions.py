"""Where the group members read: assigned partitions start at given offsets and can be moved to others.

Both group protocols change assignments by adding and removing.

A log may have lost its end while nobody read it, and other records may stand there by now. Only leader epochs tell, and
librdkafka (2.16) compares none at the first fetch of an assigned offset whose leader it knows (librdkafka#5158): what
was written over the lost end would be skipped in silence. It does compare at a seek. A fetch that is on its way before
the seek may still report a wrong cause (`Offset out of range`, 8 of 10 tries), so partitions are assigned paused.
That is of no effect where librdkafka does not know the partition yet; what is reported then is looked at once more
(`compares_again`). Where it has no metadata of the partition, it refuses to seek, and compares by itself once it learns
of the leader (the chaos run met it while brokers were away).
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, TopicPartition

from worker.intake.lane_members import LaneMembers
from worker.intake.ledger import TopicPartition as Key
from worker.threads import Threads

_log = structlog.get_logger()

# A seek is refused while librdkafka still stops what it read before, and where it has given up on an offset.
SEEK_WITHIN_S = 2.0
_PAUSE_S = 0.02


class Positions:
    """The poll thread's."""

    def __init__(self, members: LaneMembers, threads: Threads) -> None:
        self._members = members
        self._threads = threads
        # The offsets at which partitions were opened for which epochs were compared before anything was fetched.
        self._compared: dict[Key, int] = {}

    def assign(self, committed: Sequence[TopicPartition]) -> None:
        """In a rebalance callback: start new partitions at committed offsets, or at their beginning."""
        places = [place(p.topic, p.partition, p.offset if p.offset >= 0 else None, p.leader_epoch) for p in committed]
        for known in places:
            self._compared.pop((known.topic, known.partition), None)
        self._open(places)

    def hold(self, partitions: Sequence[TopicPartition]) -> None:
        """In a rebalance callback: read nothing of new partitions, and let librdkafka not begin by itself either."""
        self._members.pause(partitions)
        self._members.incremental_assign([TopicPartition(p.topic, p.partition, OFFSET_END) for p in partitions])

    def move(self, key: Key, offset: int | None, leader_epoch: int | None = None) -> None:
        """Read on from another offset, None for the beginning.

        Not by a seek alone, which is refused once librdkafka has given up on the old offset (tried).

        Args:
            leader_epoch: the highest of what was read below the offset; None where epochs are not to be compared.
        """
        moved = place(*key, offset, leader_epoch)
        self._members.incremental_unassign([moved])
        self._open([moved])

    def compares_again(self, key: Key, offset: int | None, leader_epoch: int | None) -> bool:
        """Open a partition again whose offset is reported missing by a fetch that no comparison of epochs came before.

        Returns:
            whether it was; where not, the report is to be believed.
        """
        if offset is None or leader_epoch is None or self._compared.get(key) == offset:
            return False
        self.move(key, offset, leader_epoch)
        # librdkafka knows the partition now, so that the pause took effect.
        self._compared[key] = offset
        return True

    def _open(self, places: Sequence[TopicPartition]) -> None:
        compared = [known for known in places if known.offset >= 0 and _has_epoch(known)]
        self._members.pause(compared)
        self._members.incremental_assign(places)
        self._members.resume([known for known in compared if self._is_sought(known)])

    def _is_sought(self, known: TopicPartition) -> bool:
        """Make librdkafka compare epochs; False where it does not start to read, as in a member that leaves.

        Then the partition stays paused: whatever it reads later, it is opened anew before (`reopen`).
        """
        deadline = self._threads.monotonic() + SEEK_WITHIN_S
        while True:
            try:
                self._members.seek(known)
            except KafkaException as error:
                if error.args[0].code() == KafkaError._UNKNOWN_PARTITION:
                    return True
                if self._threads.monotonic() >= deadline:
                    _log.warning(
                        "partition_left_paused", topic=known.topic, partition=known.partition, error=str(error)
                    )
                    return False
            else:
                return True
            self._threads.sleep(_PAUSE_S)
            self._members.incremental_unassign([known])
            self._members.pause([known])
            self._members.incremental_assign([known])


def _has_epoch(known: TopicPartition) -> bool:
    return known.leader_epoch is not None and known.leader_epoch >= 0


def place(topic: str, partition: int, offset: int | None, leader_epoch: int | None = None) -> TopicPartition:
    """A partition and where to start it; None is its beginning."""
    if offset is None:
        return TopicPartition(topic, partition, OFFSET_BEGINNING)
    # confluent-kafka takes no None for an unknown epoch.
    return TopicPartition(topic, partition, offset, "", *(() if leader_epoch is None else (leader_epoch,)))
