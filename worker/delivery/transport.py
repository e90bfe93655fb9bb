"""How a flush becomes durable: what the publisher asks of a transport, and how long it may take.

`exactly_once` sends results and offsets in one transaction, `at_least_once` results first and offsets after. Both
raise `TryAgain` when nothing, or for at-least-once perhaps something, became durable and the same flush has to be sent
anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from confluent_kafka import TopicPartition

from worker.delivery.blocked import Cause
from worker.delivery.producer import GRACE_S
from worker.errors import WorkerError
from worker.job import Lane

# Longer than the broker takes to abort a dead predecessor's transaction.
INIT_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 30.0
# Well inside the transaction's own timeout: past that the broker aborts it, and waiting is of no use.
TRANSACTION_CALL_TIMEOUT_S = 8.0
# The offsets of all lanes share one such time, in one call for each; a later call has at least this.
LATER_CALL_TIMEOUT_S = 1.0
# How often a commit or an abort that got no answer is repeated.
CALL_TRIES = 3
OFFSETS_MAX_S = TRANSACTION_CALL_TIMEOUT_S + GRACE_S + (len(Lane) - 1) * (LATER_CALL_TIMEOUT_S + GRACE_S)
# The longest that `send` takes: the offsets, the commit, and the abort of a transaction; records and offsets otherwise.
SEND_MAX_S = max(OFFSETS_MAX_S + TRANSACTION_CALL_TIMEOUT_S * 2 * CALL_TRIES, 2 * CALL_TIMEOUT_S)
# A topic that is not there is reported after this, and not only when the message times out. Long enough for the
# metadata of a topic that was just created.
UNKNOWN_TOPIC_CONFIG: dict[str, Any] = {"topic.metadata.propagation.max.ms": 1_500}

Membership = Mapping[str, Any]
NOBODY: Membership = {}


class TryAgain(WorkerError):
    """The flush has to be sent anew, after a pause.

    Args:
        suspects: records that were not acknowledged, by index, of a flush that did certainly not take place.
        right: the right that is missing, as a sentence; None where it is not for a right.
    """

    def __init__(self, message: str, suspects: Mapping[int, Cause] | None = None, *, right: str | None = None) -> None:
        super().__init__(message)
        self.suspects = suspects or {}
        self.right = right


class Refused(WorkerError):
    """Nothing became durable, and the same flush would be refused again.

    Args:
        causes: why, by the index of the record; empty where no record is named.
    """

    def __init__(self, message: str, causes: Mapping[int, Cause]) -> None:
        super().__init__(message)
        self.causes = causes


@dataclass(frozen=True, slots=True)
class Encoded:
    """A record ready for the producer; `where` is what else it is to be told, such as the partition."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, str | bytes | None]]
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Offset:
    """An offset to commit, with its metadata.

    Args:
        finishing: the flush holds an outcome of this partition.
        leader_epoch: of the last record that was read; None where it is not known.
    """

    topic: str
    partition: int
    offset: int
    metadata: str
    finishing: bool = False
    leader_epoch: int | None = None

    @property
    def place(self) -> tuple[str, int]:
        return self.topic, self.partition

    def to_kafka(self) -> TopicPartition:
        # confluent-kafka takes no None for an unknown epoch.
        epoch = () if self.leader_epoch is None else (self.leader_epoch,)
        return TopicPartition(self.topic, self.partition, self.offset, self.metadata, *epoch)


class Group(Protocol):
    """The consumer group, as seen by the publisher (`intake.consumer_proxy.ConsumerProxy`).

    `membership` is who we are in the group, by topic: a member for each. It is replaced and never changed.
    """

    @property
    def membership(self) -> Membership: ...

    def commit(self, offsets: Sequence[TopicPartition]) -> None: ...
    def committed(self, partitions: Sequence[TopicPartition], timeout_s: float) -> list[TopicPartition]: ...


class Transport(Protocol):
    """Makes records and offsets durable together."""

    def prepare(self, *, again: bool = False) -> None:
        """Do all that may take long before the books are read: nothing that was read before a wait is trusted after it.

        Args:
            again: as for `send`.

        Raises:
            TryAgain: nothing can be sent now.
        """
        ...

    def membership(self) -> Membership:
        """Who we are in the group, for `send`; to be asked after `prepare` and before the books are read.

        The broker checks the membership, and not who owns a partition. One that is older than the look into the books
        is refused when a partition goes in between; a newer one would be let through.
        """
        ...

    def send(
        self,
        records: Sequence[Encoded],
        offsets: Sequence[Offset],
        membership: Membership = NOBODY,
        *,
        again: bool = False,
    ) -> Mapping[int, int]:
        """Return when all of it is durable, within `SEND_MAX_S`; `prepare` comes first.

        Args:
            membership: of the group whose offsets these are.
            again: this is what is left of the flush that raised TryAgain last time.

        Returns:
            the offsets of the records by their index; empty where it took place although the answer was lost.

        Raises:
            TryAgain: it is not; call again with what is then still owned of it, and with nothing new.
            Refused: it is not, and cannot be with the records that the error names.
        """
        ...

    def open(self) -> None:
        """End what a predecessor left open, as early as possible; raises TryAgain, and `send` does it then."""
        ...

    def serve(self) -> None:
        """Take the producer's events; to be called now and then, whether something is sent or not."""
        ...

    def close(self) -> None: ...
