"""The running worker: its loops, its readiness, the drain and the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any, Protocol

import structlog

from worker.cluster.watch import ClusterWatch
from worker.delivery.retry_queue import RetryQueue
from worker.dispatch.reporter import Reporter
from worker.errors import StartupError
from worker.intake.cancellations import CancellationReader
from worker.intake.consume import Intake
from worker.intake.lag import LagGauge
from worker.intake.lane_members import LaneMembers
from worker.intake.ledger import Ledger
from worker.lifecycle.lifecycle import Lifecycle
from worker.settings import Settings
from worker.signals import Signals
from worker.telemetry import metrics
from worker.telemetry.health import Health
from worker.threads import EXIT_CRASHED, Loop, Threads

_log = structlog.get_logger()

POLL_S = 0.02
# How often each member is polled in a round while records come: what a round does beside is paid once for all of them.
ROUNDS = 4
JOIN_S = 10.0
# For leaving the group with all members: all is committed by then, and one that does not say goodbye is only missed
# later.
LEAVE_S = 20.0
REPORT_S = 0.5


class Crashed(Exception):
    """A loop has ended by an exception; the process follows it."""


class Process(Protocol):
    """What serves until it is stopped: a worker, or a dispatcher."""

    def start(self) -> None: ...
    def poll(self) -> None: ...
    def drain(self, timeout_s: float, hurry: Callable[[], bool]) -> None: ...
    def stop(self) -> None: ...


def serve_until_signal(
    process: Process, signals: Signals, drain_s: float, at_signal: Callable[[], Mapping[str, object]]
) -> int:
    """Start a process and poll it until a signal, then drain it; a second signal ends the drain.

    Args:
        at_signal: what the log says with the signal.

    Returns:
        0 after a drain, 1 when a loop has crashed.

    Raises:
        StartupError: a loop has crashed with it.
    """
    process.start()
    _log.info("ready")
    try:
        while not signals.count:
            process.poll()
        _log.warning("signal", number=signals.number, **at_signal())
        process.drain(drain_s, hurry=lambda: signals.count > 1)
    except Crashed as crash:
        # What is not committed is repeated by the next owner; a close would commit on top of a broken state.
        _log.error("crashed")
        process.stop()
        if isinstance(crash.__cause__, StartupError):
            raise crash.__cause__ from None
        return EXIT_CRASHED
    _log.info("stopped")
    return 0


@dataclass
class Worker:
    """The wired parts. `poll` and `drain` belong to the main thread, the loops have threads of their own.

    Args:
        make_reporter: makes what reports to dispatchers, from what says whether the worker takes work; None for none.
    """

    settings: Settings
    threads: Threads
    ledger: Ledger
    intake: Intake
    retry_queue: RetryQueue
    lifecycle: Lifecycle
    health: Health
    members: LaneMembers
    cancellations: CancellationReader
    lag: LagGauge
    watch: ClusterWatch
    make_reporter: InitVar[Callable[[Callable[[], bool]], Reporter] | None] = None
    reporter: Reporter | None = field(init=False)
    draining: bool = False
    _reported_at: float = 0.0
    _crash: list[BaseException] = field(default_factory=list)

    def __post_init__(self, make_reporter: Callable[[Callable[[], bool]], Reporter] | None) -> None:
        self.reporter = None if make_reporter is None else make_reporter(lambda: not self.not_ready())

    def start(self) -> None:
        """Read the cancellations, start the loops and join the group."""
        self.cancellations.open()
        for loop in self._loops():
            self.threads.start(loop, self.health.beat, self._on_died)
        self.intake.subscribe()

    def poll(self) -> None:
        """One round of the poll loop. Raises Crashed when another loop has died."""
        self.health.beat("poll")
        self.intake.tick(POLL_S)
        with self.ledger.lock:
            self.lag.sample(self.threads.now())
        metrics.PUBLISHING_FAILS.set(self.lifecycle.publisher.failing_s(self.threads.monotonic()))
        if self._crash:
            raise Crashed from self._crash[0]

    def drain(self, timeout_s: float, hurry: Callable[[], bool]) -> None:
        """Take no more work, finish or release what is here, commit, leave the group."""
        self.draining = True
        self.intake.stop()
        with self.ledger.lock:
            partitions = self.ledger.partitions()
            self.ledger.close(partitions)
        self.lifecycle.partitions.release_waiting()
        deadline = self.threads.monotonic() + timeout_s
        while self.unfinished() and self.threads.monotonic() < deadline and not hurry():
            self.poll()
        if not hurry():
            self.lifecycle.partitions.release_running(partitions)
        self.close()

    def close(self) -> None:
        """Leave the group, with the loops still there for what the revoke has to commit, then end them."""
        self.members.leave(self.threads, LEAVE_S)
        self.stop()
        self.lifecycle.publisher.close()
        self.cancellations.close()
        if self.reporter is not None:
            self.reporter.close()

    def stop(self) -> None:
        """End the loops."""
        self.threads.stop(JOIN_S)

    def unfinished(self) -> int:
        """Records between delivery and commit."""
        with self.ledger.lock:
            return self.ledger.unfinished()

    def not_ready(self) -> list[str]:
        """Why the worker can do no work now; empty when it can."""
        reasons = []
        if self.draining:
            reasons.append("draining")
        if not self.retry_queue.store_up:
            reasons.append("S3 does not answer")
        problem = self.lifecycle.publisher.problem(self.threads.monotonic())
        if problem is not None:
            reasons.append(problem)
        return reasons + self.watch.not_ready()

    def facts(self) -> dict[str, Any]:
        """What `/health` tells beside the model's facts."""
        return {
            "partitions": len(self.ledger.partitions()),
            "unfinished_jobs": self.unfinished(),
            "cancellations": self.cancellations.problem or "read",
            **self.watch.facts(),
        }

    def _loops(self) -> list[Loop]:
        engine, publisher, queue = self.lifecycle.engine, self.lifecycle.publisher, self.retry_queue
        reporter = self.reporter
        return [
            *([] if reporter is None else [Loop("reports", reporter.tick, reporter.wait)]),
            Loop("cluster", self._look_at_cluster, self.watch.wait),
            Loop("cancellations", self.cancellations.tick, self.cancellations.wait),
            Loop("engine", self._run_engine, engine.wait),
            Loop(
                "publisher",
                lambda: publisher.tick(self.threads.monotonic()),
                lambda seconds: publisher.wait(self.threads.monotonic(), seconds),
                first=publisher.open,
            ),
            *(Loop(f"pool-{number}", queue.run_one, queue.wait) for number in range(self.settings.upload_threads)),
        ]

    def _look_at_cluster(self) -> bool:
        metrics.READY.set(not self.not_ready())
        return self.watch.tick()

    def _run_engine(self) -> bool:
        worked = self.lifecycle.engine.tick()
        # The gauges look at state that only this thread may change.
        if self.threads.monotonic() - self._reported_at > REPORT_S:
            self._reported_at = self.threads.monotonic()
            self.lifecycle.report()
        return worked

    def _on_died(self, loop: str, error: BaseException) -> None:
        _log.error("loop_died", loop=loop, exc_info=error)
        self._crash.append(error)
