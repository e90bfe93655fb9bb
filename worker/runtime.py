"""The running worker: its loops and their threads, the drain and the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from confluent_kafka import Consumer

from worker.delivery.publish import Publisher
from worker.delivery.retry_queue import WorkQueue
from worker.intake.cancellations import Cancellations
from worker.intake.consume import Intake
from worker.intake.lag import LagGauge
from worker.intake.ledger import Ledger
from worker.lifecycle import Flow
from worker.settings import Settings
from worker.telemetry.health import Health

_log = structlog.get_logger()

POLL_S = 0.02
IDLE_S = 0.2
JOIN_S = 10.0
# For leaving the group: all is committed by then, and a member that does not say goodbye is only missed later.
LEAVE_S = 20.0
REPORT_S = 0.5


class Crashed(Exception):
    """A loop has ended by an exception; the process follows it."""


@dataclass
class Worker:
    """The wired parts; `tick`s of intake are the main thread's, the others have threads of their own."""

    settings: Settings
    ledger: Ledger
    intake: Intake
    engine: Any
    work: WorkQueue
    publisher: Publisher
    flow: Flow
    health: Health
    consumer: Consumer
    cancellations: Cancellations
    lag: LagGauge
    draining: bool = False
    _reported_at: float = 0.0
    _crash: list[BaseException] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Start the loops and join the group."""
        self.cancellations.open(time.time)
        self._loop("cancellations", lambda: self.cancellations.tick(IDLE_S))
        self._loop("engine", self._generate)
        self._loop("publisher", self._publish, first=self.publisher.open)
        for number in range(self.settings.upload_threads):
            self._loop(f"pool-{number}", self._deliver)
        self.intake.subscribe()

    def poll(self) -> None:
        """One round of the poll loop. Raises Crashed when another loop has died."""
        self.health.beat("poll")
        self.intake.tick(POLL_S)
        with self.ledger.lock:
            self.lag.sample(time.time())
        if self._crash:
            raise Crashed from self._crash[0]

    def drain(self, timeout_s: float, hurry: Callable[[], bool]) -> None:
        """Stop taking work, finish or hand back what is here, flush, leave the group."""
        self.draining = True
        self.intake.stop()
        with self.ledger.lock:
            partitions = self.ledger.partitions()
            self.ledger.close(partitions)
        self.flow.hand_back_waiting()
        deadline = time.monotonic() + timeout_s
        while self.unfinished() and time.monotonic() < deadline and not hurry():
            self.poll()
        if not hurry():
            self.flow.hand_back_all(partitions)
        self.close()

    def close(self) -> None:
        """Leave the group, with the loops still there for what the revoke has to commit, then end them."""
        self._leave()
        self.stop()
        self.publisher.close()
        self.cancellations.close()

    def stop(self) -> None:
        """End the loops."""
        self._stop.set()
        deadline = time.monotonic() + JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _leave(self) -> None:
        """Close the consumer; one that does not come back in time is left behind, as the process ends now.

        librdkafka's close waits without a limit for a coordinator that goes away at that moment.
        """
        leaving = threading.Thread(target=self.consumer.close, name="leave", daemon=True)
        leaving.start()
        leaving.join(LEAVE_S)
        if leaving.is_alive():
            _log.warning("group_not_left", waited_s=LEAVE_S)

    def unfinished(self) -> int:
        """Records between delivery and commit."""
        with self.ledger.lock:
            return self.ledger.unfinished()

    def _generate(self) -> None:
        if not self.engine.tick():
            self.engine.wait(IDLE_S)
        # Its gauges look at state that only this thread may change.
        if time.monotonic() - self._reported_at > REPORT_S:
            self._reported_at = time.monotonic()
            self.engine.report()

    def _deliver(self) -> None:
        if not self.work.run_one():
            self.work.wait(IDLE_S)

    def _publish(self) -> None:
        now = time.time()
        if not self.publisher.tick(now):
            self.publisher.wait(now, IDLE_S)

    def _loop(self, name: str, tick: Callable[[], object], first: Callable[[], None] | None = None) -> None:
        def run() -> None:
            try:
                if first is not None:
                    first()
                while not self._stop.is_set():
                    self.health.beat(name)
                    tick()
            except BaseException as error:  # the main thread raises it anew and the process ends
                _log.error("loop_died", loop=name, exc_info=True)
                self._crash.append(error)

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
