"""Where the group members read: assigned partitions start at given offsets and can be moved to others.

Both group protocols change assignments by adding and removing.
"""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from worker.intake.lane_members import LaneMembers
from worker.intake.ledger import TopicPartition as Key


class Positions:
    """The poll thread's."""

    def __init__(self, members: LaneMembers) -> None:
        self._members = members

    def assign(self, committed: Sequence[TopicPartition]) -> None:
        """In a rebalance callback: start new partitions at committed offsets, or at their beginning."""
        places = [place(p.topic, p.partition, p.offset if p.offset >= 0 else None, p.leader_epoch) for p in committed]
        self._members.incremental_assign(places)

    def move(self, key: Key, offset: int | None) -> None:
        """Read on from another offset, None for the beginning.

        A `seek` is refused once librdkafka has given up on the old offset (tried).
        """
        moved = place(*key, offset)
        self._members.incremental_unassign([moved])
        self._members.incremental_assign([moved])


def place(topic: str, partition: int, offset: int | None, leader_epoch: int | None = None) -> TopicPartition:
    """A partition and where to start it; None is its beginning."""
    if offset is None:
        return TopicPartition(topic, partition, OFFSET_BEGINNING)
    # confluent-kafka takes no None for an unknown epoch.
    return TopicPartition(topic, partition, offset, "", *(() if leader_epoch is None else (leader_epoch,)))
