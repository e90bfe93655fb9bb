"""Group membership at the simulated broker: members, epochs, and which member may have which partition.

The partitions of a topic go round among the members that subscribe to it, which moves more of them than Kafka's sticky
assignors do. Members only give up partitions that another member will own, and no member receives a partition before
its previous owner has revoked it. In the classic protocol (cooperative-sticky) a member learns in a new generation what
to give up, and joins again once it has, so that everybody's generation changes. With KIP-848 its epoch stays until
then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from confluent_kafka import KafkaError

from tests.sim.kernel import Kernel, Process

Key = tuple[str, int]


@dataclass(slots=True, eq=False)
class Member:
    """`owned` is what the broker counts as this member's until it has let go or is thrown out.

    While it has been told to give up `revoking`, and has not, it may commit.
    """

    id: str
    process: Process
    topics: frozenset[str]
    epoch: int = -1
    owned: set[Key] = field(default_factory=set)
    revoking: set[Key] = field(default_factory=set)


class Group:
    """One consumer group on topics of `partitions` partitions each."""

    def __init__(self, kernel: Kernel, partitions: int, session_timeout_s: float, *, classic: bool) -> None:
        self._kernel = kernel
        self._partitions = partitions
        self._session_timeout_s = session_timeout_s
        self._classic = classic
        self._ids = count(1)
        self.epoch = 0
        self.members: dict[str, Member] = {}
        # Why a member's heartbeats are refused for good.
        self.refused: dict[str, KafkaError] = {}

    def join(self, process: Process, topics: Iterable[str]) -> Member:
        member = Member(f"{process.name}/{next(self._ids)}", process, frozenset(topics))
        self.members[member.id] = member
        self._watch(member, self._kernel.now)
        self._rebalance()
        return member

    def leave(self, member: Member) -> None:
        """By itself, or thrown out."""
        if self.members.pop(member.id, None) is not None:
            member.owned.clear()
            self._rebalance()

    def released(self, member: Member) -> None:
        """The member has let go of what it was told to; only now do others get it."""
        has_given = bool(member.revoking)
        member.owned -= member.revoking
        member.revoking = set()
        if self._classic and has_given and member.id in self.members:
            self._rebalance()
            return
        # As in Kafka's CurrentAssignmentBuilder, the epoch stays where there is more to revoke at once.
        self._reconcile(member)

    def take_new(self, member: Member) -> set[Key]:
        """Give what is this member's to have and nobody else's any more."""
        if member.revoking or member.id not in self.members:
            return set()
        taken = {key for other in self.members.values() for key in other.owned}
        new = self._target(member) - taken
        member.owned |= new
        return new

    def _rebalance(self) -> None:
        self.epoch += 1
        for member in self.members.values():
            if not member.revoking:
                self._reconcile(member)

    def _reconcile(self, member: Member) -> None:
        member.revoking = member.owned - self._target(member)
        if self._classic or not member.revoking:
            member.epoch = self.epoch

    def _target(self, member: Member) -> set[Key]:
        if member.id not in self.members:
            return set()
        found = set()
        for topic in member.topics:
            readers = sorted(other.id for other in self.members.values() if topic in other.topics)
            mine = range(readers.index(member.id), self._partitions, len(readers))
            found |= {(topic, partition) for partition in mine}
        return found

    def _watch(self, member: Member, seen: float) -> None:
        """Throw the member out when no heartbeat of it has been taken for the session timeout."""
        if self.members.get(member.id) is not member:
            return
        now = self._kernel.now
        if member.process.alive and member.process.stopped_until <= now and member.id not in self.refused:
            seen = now
        if now - seen >= self._session_timeout_s:
            self.leave(member)
            return
        self._kernel.at(self._session_timeout_s / 6, lambda: self._watch(member, seen))
