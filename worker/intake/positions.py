"""Where the group member reads: assigned partitions start at given offsets and can be moved to others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from worker.intake.ledger import TopicPartition as Key


class Positions:
    """The poll thread's.

    Args:
        cooperative: whether the group's protocol changes assignments by adding and removing (KIP-848 does).
        next_offsets: the next offset of every partition that is assigned, None before the first record.
    """

    def __init__(
        self, consumer: Consumer, *, cooperative: bool, next_offsets: Callable[[], Mapping[Key, int | None]]
    ) -> None:
        self._consumer = consumer
        self._cooperative = cooperative
        self._next_offsets = next_offsets

    def assign(self, committed: Sequence[TopicPartition]) -> None:
        """In a rebalance callback: start new partitions at committed offsets, or at their beginning."""
        places = [place(p.topic, p.partition, p.offset if p.offset >= 0 else None, p.leader_epoch) for p in committed]
        if self._cooperative:
            self._consumer.incremental_assign(places)
        else:
            self._consumer.assign(places)

    def move(self, key: Key, offset: int | None) -> None:
        """Read on from another offset, None for the beginning.

        A `seek` is refused once librdkafka has given up on the old offset (tried).
        """
        moved = place(*key, offset)
        if self._cooperative:
            self._consumer.incremental_unassign([moved])
            self._consumer.incremental_assign([moved])
        else:
            others = {other: at for other, at in self._next_offsets().items() if other != key}
            self._consumer.assign([moved, *(place(*other, at) for other, at in others.items())])


def place(topic: str, partition: int, offset: int | None, leader_epoch: int | None = None) -> TopicPartition:
    """A partition and where to start it; None is its beginning."""
    if offset is None:
        return TopicPartition(topic, partition, OFFSET_BEGINNING)
    # confluent-kafka takes no None for an unknown epoch.
    return TopicPartition(topic, partition, offset, "", *(() if leader_epoch is None else (leader_epoch,)))
