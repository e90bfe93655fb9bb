"""A simulated world from a seed: a broker, a bucket, workers, the requests, and the faults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import stamina
import structlog
from confluent_kafka import KafkaError

from tests.sim.audit import Audit, Violation
from tests.sim.broker import Broker
from tests.sim.faults import STALL_S, Faults, Plan
from tests.sim.group import Group, Key
from tests.sim.kernel import Crashed, Kernel
from tests.sim.process import SimProcess
from tests.sim.requests import TOPICS, Kind, Request
from tests.sim.store import Bucket
from tests.sim.worker import SETTINGS, SLOTS, SimWorker
from worker.delivery.exactly_once import TRANSACTION_CONFIG
from worker.job import Job

SESSION_TIMEOUT_S = 6.0
TRANSACTION_TIMEOUT_S = TRANSACTION_CONFIG["transaction.timeout.ms"] / 1000
QUIET_WITHIN_S = 400.0
_RESTART_S = (0.2, 8.0)


@dataclass(slots=True)
class Scenario:
    """What happens in a world. Delays are seconds from its start."""

    requests: list[tuple[float, Request]]
    workers: int = 2
    partitions: int = 2
    classic: bool = False
    # How many of the workers have one member for all topics, as before; those that take their places do not.
    older: int = 0
    plan: Plan = field(default_factory=Plan)
    trouble_s: float = 6.0
    kills: list[float] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)
    drains: list[float] = field(default_factory=list)
    joins: list[float] = field(default_factory=list)
    outages: list[tuple[float, float]] = field(default_factory=list)
    # When a log of requests loses its end, be it read by a worker at that moment or not.
    lost_ends: list[float] = field(default_factory=list)
    # When the coordinator refuses the heartbeats of a member for good.
    refusals: list[float] = field(default_factory=list)
    new_names: bool = False
    slots: int = SLOTS
    buffer: int = SETTINGS.buffer_per_partition


class World:
    """Runs one scenario to its end, or raises Violation."""

    def __init__(self, seed: int, scenario: Scenario) -> None:
        self.scenario = scenario
        self.kernel = Kernel(seed)
        self.bucket = Bucket()
        self.faults = Faults(Random(seed + 1), scenario.plan)
        self.audit = self._make_audit()
        group = Group(self.kernel, scenario.partitions, SESSION_TIMEOUT_S, classic=scenario.classic)
        self.broker = self.audit.broker = Broker(self.kernel, scenario.partitions, group, self.audit)
        self.processes: list[SimProcess] = []
        self.crashes = 0
        # Why workers have ended themselves.
        self.ends: list[str] = []
        self._names = 0
        self._closing = False

    def _make_audit(self) -> Any:
        return Audit(self.bucket, SETTINGS.crash_loop_limit)

    def run(self) -> None:
        """Trouble first, then quiet until all is done, then a clean restart, and one with nothing left to do."""
        try:
            self._run()
        finally:
            self.kernel.close()

    def _run(self) -> None:
        self._schedule()
        self.kernel.run_for(self.scenario.trouble_s)
        self.faults.active = False
        self.bucket.up = True
        if not self.kernel.run_until(lambda: self._all_sent() and not self.audit.unanswered(), QUIET_WITHIN_S):
            raise Violation(f"never finished: {self.audit.unanswered()}")
        if not self.kernel.run_until(lambda: not self.audit.below_end(), QUIET_WITHIN_S):
            raise Violation(f"never committed to the end: {self.audit.below_end()}")
        self._stop_all()
        self.audit.finish()
        self._restart_clean()
        self._stop_all()
        self._restart_rewound()

    def start(self, name: str | None = None, *, older: bool = False) -> None:
        """Start a process; without a name it is a new one."""
        process = self._make(name or self._new_name("w"), older=older)
        self.processes.append(process)
        process.start()

    def _make(self, name: str, *, older: bool) -> SimProcess:
        return SimWorker(
            self.kernel,
            self.broker,
            self.bucket,
            self.faults,
            name,
            group=self.broker.group,
            slots=self.scenario.slots,
            buffer=self.scenario.buffer,
            older=older,
            crash=self.crash,
            died=self._died,
            end=self._end,
            on_run=self._on_run,
        )

    def _new_name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}{self._names}"

    def crash(self, worker: SimProcess) -> None:
        """The process is gone in this very moment; another takes its place after a while."""
        if not worker.alive:
            return
        self.crashes += 1
        worker.alive = False
        self._replace(worker)

    def _replace(self, worker: SimProcess) -> None:
        name = self._new_name(worker.name[0]) if self.scenario.new_names else worker.name
        self.kernel.at(self.kernel.rng.uniform(*_RESTART_S), lambda: self._join(name))

    def _join(self, name: str | None = None) -> None:
        if not self._closing:
            self.start(name)

    def _died(self, worker: SimProcess, error: Exception) -> None:
        raise Violation(f"a loop of {worker.name} died of {error!r}") from error

    def _end(self, worker: SimProcess, reason: str) -> None:
        self.ends.append(reason)
        self.crash(worker)

    def _on_run(self, worker: SimProcess, job: Job) -> None:
        self.audit.on_run(job, worker.member(job.origin.topic))
        if job.prompt == "poison":
            self.crash(worker)
            raise Crashed(worker.name)

    def _schedule(self) -> None:
        scenario, kernel = self.scenario, self.kernel
        for number in range(scenario.workers):
            self.start(older=number < scenario.older)
        for delay, request in scenario.requests:
            kernel.at(delay, lambda request=request: self._send(request))  # type: ignore[misc]
        for delay in scenario.kills:
            kernel.at(delay, self._kill_one)
        for delay in scenario.stalls:
            kernel.at(delay, self._stall_one)
        for delay in scenario.drains:
            kernel.at(delay, self._drain_one)
        for delay in scenario.joins:
            kernel.at(delay, self._join)
        for delay in scenario.lost_ends:
            kernel.at(delay, self._lose_an_end)
        for delay in scenario.refusals:
            kernel.at(delay, self._refuse_a_member)
        for begin, end in scenario.outages:
            kernel.at(begin, lambda: setattr(self.bucket, "up", False))
            kernel.at(end, lambda: setattr(self.bucket, "up", True))

    def _send(self, request: Request) -> None:
        if self.kernel.rng.random() < 0.2:
            self._gap(request)
        entry = self.broker.append(request.topic, request.job_id.encode(), request.value, request.headers)
        request.partition, request.offset = entry.partition, entry.offset
        self.audit.requests[request.number] = request

    def _gap(self, request: Request) -> None:
        """What an upstream producer's aborted transaction leaves in the partition."""
        session = self.broker.open_session("upstream")
        self.broker.produce(session, 60.0, request.topic, request.job_id.encode(), b"aborted", [])
        self.broker.abort(session)

    def _lose_an_end(self) -> None:
        rng = self.kernel.rng
        keys = [(topic, n) for topic in TOPICS.requests for n in range(self.broker.partitions)]
        longest = max(keys, key=lambda key: self.broker.log(key).end)
        self.lose_end(longest, rng.uniform(0.2, 1.0))

    def _refuse_a_member(self) -> None:
        # Older workers, with a member for all topics, cannot replace it.
        members = sorted(name for name, member in self.broker.group.members.items() if len(member.topics) == 1)
        if members:
            self.broker.group.refused[self.kernel.rng.choice(members)] = KafkaError(KafkaError.GROUP_ID_NOT_FOUND)

    def lose_end(self, key: Key, share: float) -> list[Request]:
        """The log keeps this share of its records; returns the lost requests that had no outcome."""
        log = self.broker.log(key)
        end, old_end = round(log.end * share), log.end
        self.broker.lose_end(key, end)
        lost: list[Request] = self.audit.lose(key, range(end, old_end))
        return lost

    def _all_sent(self) -> bool:
        return len(self.audit.requests) + len(self.audit.gone) == len(self.scenario.requests)

    def _running(self) -> list[SimProcess]:
        return [w for w in self.processes if w.alive and not w.leaving and w.stopped_until <= self.kernel.now]

    def _one(self) -> SimProcess | None:
        running = self._running()
        return self.kernel.rng.choice(running) if running else None

    def _kill_one(self) -> None:
        worker = self._one()
        if worker is not None:
            self.crash(worker)

    def _stall_one(self) -> None:
        worker = self._one()
        if worker is not None:
            worker.stopped_until = self.kernel.now + STALL_S * self.kernel.rng.uniform(0.5, 1.5)

    def _drain_one(self) -> None:
        worker = self._one()
        if worker is not None:
            worker.leaving = True
            self._replace(worker)

    def _stop_all(self) -> None:
        """A clean stop of everything."""
        self._closing = True
        for worker in self.processes:
            worker.leaving = True
        if not self.kernel.run_until(lambda: not any(w.alive for w in self.processes), QUIET_WITHIN_S):
            raise Violation("a drain does not end")
        self.kernel.run_for(TRANSACTION_TIMEOUT_S)  # an open transaction hides what lies behind it

    def _start_again(self) -> None:
        self.start()

    def _restart_clean(self) -> None:
        runs = {number: request.runs for number, request in self.audit.drawn.items()}
        self._start_again()
        self.kernel.run_for(2.0)
        for number, request in self.audit.drawn.items():
            if request.runs != runs[number]:
                raise Violation(f"request {number} runs again after a clean restart")
            if request.kind is Kind.POISON and request.runs > SETTINGS.crash_loop_limit:
                raise Violation(f"{request} ran {request.runs} times")

    def _restart_rewound(self) -> None:
        """A worker that finds only finished records commits past them."""
        self.faults.end()
        self.audit.rewind()
        self._start_again()
        if not self.kernel.run_until(lambda: not self.audit.lagging(), QUIET_WITHIN_S):
            raise Violation(f"finished, but never committed: {self.audit.lagging()}")


@contextmanager
def quiet() -> Iterator[None]:
    """No logs and no real sleeping."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        with stamina.set_testing(True, attempts=12):
            yield
    finally:
        structlog.configure(**before)
