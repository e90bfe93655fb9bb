"""The running dispatcher: its loops, its readiness, the drain and the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from worker.cluster.watch import ClusterWatch
from worker.dispatch.dispatcher import Dispatcher
from worker.dispatch.report_reader import ReportReader
from worker.intake.consume import Intake
from worker.intake.lag import LagGauge
from worker.intake.lane_members import LaneMembers
from worker.intake.ledger import Ledger
from worker.runtime import JOIN_S, LEAVE_S, Crashed
from worker.telemetry import metrics
from worker.telemetry.health import Health
from worker.threads import Loop, Threads

_log = structlog.get_logger()

# The longest that a report, or the room that it tells of, waits for the poll thread.
POLL_S = 0.005


@dataclass
class DispatchProcess:
    """The wired parts. `poll` and `drain` belong to the main thread, the loops have threads of their own."""

    threads: Threads
    ledger: Ledger
    intake: Intake
    dispatcher: Dispatcher
    reports: ReportReader
    members: LaneMembers
    lag: LagGauge
    watch: ClusterWatch
    health: Health
    draining: bool = False
    _crash: list[BaseException] = field(default_factory=list)

    def start(self) -> None:
        """Start the loops and join the group."""
        for loop in self._loops():
            self.threads.start(loop, self.health.beat, self._on_died)
        self.intake.subscribe()

    def poll(self) -> None:
        """One round of the poll loop. Raises Crashed when another loop has died."""
        self.health.beat("poll")
        self.intake.tick(POLL_S)
        with self.ledger.lock:
            self.lag.sample(self.threads.now())
        metrics.PUBLISHING_FAILS.set(self.dispatcher.publisher.failing_s(self.threads.monotonic()))
        if self._crash:
            raise Crashed from self._crash[0]

    def drain(self, timeout_s: float, hurry: Callable[[], bool]) -> None:
        """Send nothing more, commit what was sent, leave the group."""
        self.draining = True
        self.intake.stop()
        with self.ledger.lock:
            partitions = self.ledger.partitions()
            self.ledger.close(partitions)
            self.dispatcher.release(partitions)
        deadline = self.threads.monotonic() + timeout_s
        while self.unfinished() and self.threads.monotonic() < deadline and not hurry():
            self.poll()
        self.close()

    def close(self) -> None:
        """Leave the group, with the loops still there for what the revoke has to commit, then end them."""
        self.members.leave(self.threads, LEAVE_S)
        self.stop()
        self.dispatcher.publisher.close()
        self.reports.close()

    def stop(self) -> None:
        """End the loops."""
        self.threads.stop(JOIN_S)

    def unfinished(self) -> int:
        """Records between delivery and commit."""
        with self.ledger.lock:
            return self.ledger.unfinished()

    def not_ready(self) -> list[str]:
        """Why nothing can be dispatched now; empty when it can. A fleet without workers is no fault of this process."""
        reasons = ["draining"] if self.draining else []
        problem = self.dispatcher.publisher.problem(self.threads.monotonic())
        if problem is not None:
            reasons.append(problem)
        return reasons + self.watch.not_ready()

    def facts(self) -> dict[str, Any]:
        """What `/health` tells."""
        return {
            "partitions": len(self.ledger.partitions()),
            "waiting_requests": self.unfinished(),
            **self.watch.facts(),
        }

    def _loops(self) -> list[Loop]:
        publisher = self.dispatcher.publisher
        return [
            Loop("cluster", self._look_at_cluster, self.watch.wait),
            Loop("reports", self.reports.tick, self.reports.wait),
            Loop(
                "publisher",
                lambda: publisher.tick(self.threads.monotonic()),
                lambda seconds: publisher.wait(self.threads.monotonic(), seconds),
                first=publisher.open,
            ),
        ]

    def _look_at_cluster(self) -> bool:
        metrics.READY.set(not self.not_ready())
        return self.watch.tick()

    def _on_died(self, loop: str, error: BaseException) -> None:
        _log.error("loop_died", loop=loop, exc_info=error)
        self._crash.append(error)
