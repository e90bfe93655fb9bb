"""What becomes of jobs when their partitions come and go: what intake and the drain call.

All of it returns at once but `release_partitions`, `release_running` and `wait_for_flush`, which belong to the poll
thread and whose waits are bounded (`poll_waits`).
"""

from __future__ import annotations

from collections.abc import Sequence

from worker.delivery.publish import Publisher, Touch
from worker.engine_interface import Engine
from worker.intake.gate import Gate
from worker.intake.ledger import Ledger
from worker.intake.ledger import TopicPartition as Key
from worker.intake.start_queue import StartQueue
from worker.lifecycle.endings import Endings
from worker.lifecycle.ownership import Ownership
from worker.poll_waits import PollWaits
from worker.threads import Threads


class PartitionChanges:
    """Releases the jobs of partitions that go, and has partitions committed. It implements `IntakeHooks`."""

    def __init__(
        self,
        ledger: Ledger,
        gate: Gate,
        start_queue: StartQueue,
        ownership: Ownership,
        engine: Engine,
        publisher: Publisher,
        endings: Endings,
        threads: Threads,
        waits: PollWaits,
        *,
        revoke_timeout_s: float,
    ) -> None:
        self._ledger = ledger
        self._gate = gate
        self._start_queue = start_queue
        self._ownership = ownership
        self._engine = engine
        self._publisher = publisher
        self._endings = endings
        self._threads = threads
        self._waits = waits
        self._revoke_timeout_s = revoke_timeout_s

    def commit_soon(self, partition: Key) -> None:
        """The offset to commit has moved, and perhaps no outcome is to come that would commit it."""
        self._publisher.enqueue(Touch((partition,), at_once=False), self._threads.monotonic())

    def release_partitions(self, partitions: Sequence[Key]) -> None:
        """Before partitions go: release what waits, give what runs a bounded time, commit, release the rest.

        Where the lanes' partitions go one after another, their jobs share the time: those of the second lane have gone
        on while the poll thread waited for those of the first.
        """
        self.release_waiting()
        jobs_s = self._revoke_timeout_s - self._waits.waited_s()
        self._waits.until(lambda: self._ownership.unfinished(partitions) == 0, min(jobs_s, self._waits.left_s()))
        self.release_running(partitions)

    def release_waiting(self) -> None:
        """Release every job of a closing partition that has not reached the GPU."""
        self._engine.release(self._ownership.is_wanted, started=False)
        self.release_not_started()

    def release_running(self, partitions: Sequence[Key]) -> None:
        """Release what still runs for closing partitions, and commit them a last time."""
        self._engine.release(self._ownership.is_wanted, started=True)
        self._waits.for_last_commit(self._publisher, partitions, lambda: self._ownership.unfinished(partitions))

    def release_unowned(self) -> None:
        """Partitions have another owner already, or were started over: release all that is not ours."""
        self._engine.release(self._ownership.is_owned, started=True)
        self.release_not_started()

    def release_not_started(self) -> None:
        """Release every job of a closing partition that waits at the gate or for its start."""
        with self._ledger.lock:
            waiting = [*self._gate.waiting(), *self._start_queue.waiting()]
            closed = [job for job in waiting if not self._ownership.is_wanted(job.origin)]
        for job in closed:
            self._endings.release(job.origin)

    def wait_for_flush(self) -> None:
        """As `PollWaits.for_flush`."""
        self._waits.for_flush(self._publisher)
