"""A simulated process that has members of a group: a worker or a dispatcher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.sim.clients import FakeConsumer
from tests.sim.group import Group, Member
from tests.sim.kernel import Kernel, Process
from tests.sim.threads import SimThreads
from worker.dispatch.runtime import DispatchProcess
from worker.runtime import Worker

DRAIN_S = 5.0


class SimProcess(Process):
    """From its start to its end; who derives from it wires it."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        super().__init__(name)
        self.leaving = False
        self._kernel = kernel

    def _wire(
        self,
        wired: Worker | DispatchProcess,
        threads: SimThreads,
        group: Group,
        members: Mapping[str, FakeConsumer],
    ) -> None:
        self._wired, self._threads, self._group, self._members = wired, threads, group, members

    def member(self, topic: str) -> Member | None:
        """The group's member of this process for a topic; None while there is none."""
        member = self._members[topic].member
        return member if member is not None and member.id in self._group.members else None

    def forget_to_fetch(self) -> None:
        """The clients leave all partitions that they have now paused (librdkafka#5591)."""
        for topic, consumer in self._members.items():
            member = self.member(topic)
            consumer.forgotten |= set() if member is None else member.owned

    def start(self) -> None:
        """Start the loops and join the group."""
        self._wired.start()
        self._threads.run("poll", self._poll)

    def _poll(self) -> float:
        if self.leaving:
            self._wired.drain(DRAIN_S, hurry=lambda: False)
            self.alive = False
        else:
            self._wired.poll()
        return self._kernel.rng.uniform(0.005, 0.08)

    def _check_unlocked(self) -> None:
        # The kernel's threads are one to the lock, so a call that holds it would let others in where they must wait.
        lock: Any = self._wired.ledger.lock
        assert not lock._is_owned(), "I/O with the ledger locked"
