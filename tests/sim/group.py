"""Group membership at the simulated broker: members, epochs, and which member may have which partition.

The assignor is range over co-partitioned topics. With `eager` (the classic protocol), members give up all partitions
at each rebalance. Otherwise (KIP-848), they only give up partitions that another member will own, and no member
receives a partition before its previous owner has revoked it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from tests.sim.kernel import Kernel, Process

Key = tuple[str, int]


@dataclass(slots=True, eq=False)
class Member:
    """`owned` is what the broker counts as this member's until it has let go or is thrown out.

    While it has been told to give up `revoking`, and has not, it keeps its epoch and so may commit.
    """

    id: str
    process: Process
    epoch: int = -1
    owned: set[Key] = field(default_factory=set)
    revoking: set[Key] = field(default_factory=set)


class Group:
    """One consumer group on the request topics."""

    def __init__(
        self, kernel: Kernel, topics: Sequence[str], partitions: int, session_timeout_s: float, *, eager: bool
    ) -> None:
        self._kernel = kernel
        self._topics = topics
        self._partitions = partitions
        self._session_timeout_s = session_timeout_s
        self._eager = eager
        self._ids = count(1)
        self.epoch = 0
        self.members: dict[str, Member] = {}

    def join(self, process: Process) -> Member:
        member = Member(f"{process.name}/{next(self._ids)}", process)
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
        member.owned -= member.revoking
        member.revoking = set()
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
        kept = set() if self._eager and member.epoch != self.epoch else self._target(member)
        member.revoking = member.owned - kept
        if not member.revoking:
            member.epoch = self.epoch

    def _target(self, member: Member) -> set[Key]:
        members = sorted(self.members)
        if member.id not in members:
            return set()
        mine = range(members.index(member.id), self._partitions, len(members))
        return {(topic, partition) for topic in self._topics for partition in mine}

    def _watch(self, member: Member, seen: float) -> None:
        """Throw the member out when its process has not been well for the session timeout."""
        if self.members.get(member.id) is not member:
            return
        now = self._kernel.now
        if member.process.alive and member.process.stopped_until <= now:
            seen = now
        if now - seen >= self._session_timeout_s:
            self.leave(member)
            return
        self._kernel.at(self._session_timeout_s / 6, lambda: self._watch(member, seen))
