"""The faults of a simulation, and the I/O calls at which they happen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import TypeVar

from tests.sim.kernel import Crashed, Kernel, Process
from worker.delivery.transport import INIT_TIMEOUT_S, SEND_MAX_S
from worker.intake.consumer_proxy import ANSWER_TIMEOUT_S, COMMITTED_WITHIN_S
from worker.poll_waits import SETTLE_S
from worker.runtime import LEAVE_S

_T = TypeVar("_T")

# Longer than any retry of the worker, so that a doubt stays one.
_IN_A_ROW = 4
STALL_S = 9.0
# Above every timeout in the code, so that no bounded wait outlasts each call.
SLOWEST_S = 1.5 * max(SETTLE_S, SEND_MAX_S, INIT_TIMEOUT_S, COMMITTED_WITHIN_S, ANSWER_TIMEOUT_S, LEAVE_S)
_SLOW_S = (3.0, 25.0, SLOWEST_S)


class Fault(StrEnum):
    """`lost`: the call took place, but its caller gets an error. `stall`: of the process; `slow`: of the caller."""

    RETRIABLE = "retriable"
    ABORTABLE = "abortable"
    FATAL = "fatal"
    OUTAGE = "outage"
    LOST_RETRIABLE = "lost-retriable"
    LOST_FATAL = "lost-fatal"
    LOST_OUTAGE = "lost-outage"
    CRASH_BEFORE = "crash-before"
    CRASH_AFTER = "crash-after"
    STALL_BEFORE = "stall-before"
    STALL_AFTER = "stall-after"
    SLOW_BEFORE = "slow-before"
    SLOW_AFTER = "slow-after"


CRASHES = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER)
DELAYS = (Fault.STALL_BEFORE, Fault.STALL_AFTER, Fault.SLOW_BEFORE, Fault.SLOW_AFTER)
BETWEEN = CRASHES + DELAYS
LOST = (Fault.LOST_RETRIABLE, Fault.LOST_FATAL, Fault.LOST_OUTAGE)
# Most calls are polls, and most polls bring nothing.
_POLLS_PER_CALL = 20
_NO_ERRORS = ("poll", "close")
_PLAIN_ERRORS = {
    "get": (Fault.RETRIABLE,),
    "put": (Fault.RETRIABLE, Fault.LOST_RETRIABLE),
    "committed": (Fault.RETRIABLE, Fault.OUTAGE),
}


def faults_of(name: str) -> tuple[Fault, ...]:
    """What can become of a call of this name."""
    if name in _NO_ERRORS:
        return BETWEEN
    return _PLAIN_ERRORS[name] + BETWEEN if name in _PLAIN_ERRORS else tuple(Fault)


@dataclass(slots=True)
class Plan:
    """Faults by the number of the call, and at random with a rate per call."""

    nth: dict[int, Fault] = field(default_factory=dict)
    rate: float = 0.0
    choices: tuple[Fault, ...] = tuple(Fault)


@dataclass(slots=True)
class Faults:
    """Counts the I/O calls of all workers and decides what becomes of each."""

    rng: Random
    plan: Plan
    active: bool = True
    calls: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    _ailing: dict[str, int] = field(default_factory=dict)

    def end(self) -> None:
        """From here on there are none."""
        self.plan = Plan()
        self._ailing.clear()

    def next(self, process: Process, name: str) -> Fault | None:
        """The fault of this call."""
        self.calls.append(name)
        number = len(self.calls)
        if name not in _NO_ERRORS and self._ailing.get(process.name, 0) > 0:
            self._ailing[process.name] -= 1
            return Fault.RETRIABLE
        fault = self.plan.nth.get(number)
        rate = self.plan.rate / _POLLS_PER_CALL if name == "poll" else self.plan.rate
        if self.active and rate and self.rng.random() < rate:
            fault = self.rng.choice([choice for choice in self.plan.choices if choice in faults_of(name)] or [None])
        if fault is not None:
            self.trace.append(f"call {number}, {name} of {process.name}: {fault}")
        if fault in (Fault.OUTAGE, Fault.LOST_OUTAGE):
            self._ailing[process.name] = _IN_A_ROW
        return fault


@dataclass(slots=True)
class Port:
    """Every I/O call of one worker goes through here: it takes time, and may fail, crash or stall."""

    kernel: Kernel
    faults: Faults
    process: Process
    crash: Callable[[], None]
    check: Callable[[], None]

    def call(self, name: str, action: Callable[[], _T], error: Callable[[Fault], Exception | None]) -> _T:
        """Carry out `action`. `error` makes the exception of a fault, where the call can fail so in its state."""
        self.check()
        self._latency()
        fault = self.faults.next(self.process, name)
        failure = None if fault is None or fault in BETWEEN else error(fault)
        self._happen(fault, Fault.CRASH_BEFORE, Fault.STALL_BEFORE, Fault.SLOW_BEFORE)
        if failure is not None and fault not in LOST:
            raise failure
        result = action()
        self._happen(fault, Fault.CRASH_AFTER, Fault.STALL_AFTER, Fault.SLOW_AFTER)
        if failure is not None:
            raise failure
        self._latency()
        return result

    def _latency(self) -> None:
        draw = self.kernel.rng.random()
        self.kernel.wait(self.process, 0.0 if draw < 0.7 else (draw - 0.7) * 0.1)

    def _happen(self, fault: Fault | None, crash: Fault, stall: Fault, slow: Fault) -> None:
        if fault is crash:
            self.crash()
            raise Crashed(self.process.name)
        if fault is stall:
            self.process.stopped_until = self.kernel.now + STALL_S
            self.kernel.wait(self.process, 0.0)
        if fault is slow:
            self.kernel.wait(self.process, self.kernel.rng.uniform(0.5, self.kernel.rng.choice(_SLOW_S)))
