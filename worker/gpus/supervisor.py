"""Starts the workers of all cards, starts those again that die, and passes signals on.

Each worker is a session of its own, so that Ctrl-C in a terminal reaches it once, from here: twice would be the second
signal, which ends a worker at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Protocol

import structlog

from worker.gpus.plan import Plan
from worker.gpus.restarts import EXIT_WRONG, Restarts

_log = structlog.get_logger()

POLL_S = 0.2
_PR_SET_PDEATHSIG = 1
# Loaded here: nothing may be imported between fork and exec.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Child(Protocol):
    """A worker's process; `subprocess.Popen` is one."""

    pid: int

    def poll(self) -> int | None: ...
    def send_signal(self, number: int) -> None: ...


@dataclass(slots=True, eq=False)
class _Worker:
    plan: Plan
    restarts: Restarts = field(default_factory=Restarts)
    child: Child | None = None
    start_at: float | None = 0.0
    code: int = 0


class Supervisor:
    """The workers of one machine.

    Args:
        start: starts the process of a plan.
    """

    def __init__(self, plans: Sequence[Plan], start: Callable[[Plan], Child]) -> None:
        self._workers = [_Worker(plan) for plan in plans]
        self._start = start
        self._passed_on = 0

    @property
    def running(self) -> int:
        """How many workers run."""
        return sum(worker.child is not None for worker in self._workers)

    def tick(self, signals: int, now: float) -> int | None:
        """Do what is to be done now; the exit code once nothing runs and nothing will.

        Args:
            signals: how many signals have come so far. The first drains all workers at once, the second ends them.
        """
        for worker in self._workers:
            self._look_after(worker, stopping=signals > 0, now=now)
        while self._passed_on < min(signals, 2):
            self._passed_on += 1
            self._pass_on()
        if self.running or any(worker.start_at is not None for worker in self._workers):
            return None
        return self._exit_code(stopped=signals > 0)

    def _look_after(self, worker: _Worker, *, stopping: bool, now: float) -> None:
        if worker.child is not None:
            code = worker.child.poll()
            if code is None:
                return
            worker.child, worker.code = None, code
            worker.start_at = None if stopping else worker.restarts.after(code, now)
            pause_s = None if worker.start_at is None else round(worker.start_at - now, 1)
            tell = _log.info if code == 0 or stopping else _log.error
            tell("gpu_worker_ended", worker=worker.plan.name, exit_code=code, again_in_s=pause_s)
        if stopping:
            worker.start_at = None
        elif worker.start_at is not None and now >= worker.start_at:
            worker.start_at = None
            worker.restarts.started_at = now
            worker.child = self._start(worker.plan)
            _log.info("gpu_worker_started", worker=worker.plan.name, pid=worker.child.pid, gpu=worker.plan.card.uuid)

    def _pass_on(self) -> None:
        running = [worker for worker in self._workers if worker.child is not None]
        _log.warning("signal", passed_on_to=len(running), hint="all drain at once; a second signal ends them")
        for worker in running:
            assert worker.child is not None
            with suppress(ProcessLookupError):
                worker.child.send_signal(signal.SIGTERM)

    def _exit_code(self, *, stopped: bool) -> int:
        """0 after a drain; 2 where a worker's settings were wrong; else 1 where one was cut off."""
        codes = {worker.code for worker in self._workers}
        if self._passed_on == 1:
            # It was still importing, and had nothing to drain.
            codes.discard(-signal.SIGTERM)
        if EXIT_WRONG in codes and not stopped:
            return EXIT_WRONG
        return 0 if codes <= {0, EXIT_WRONG} else 1


def make_caches(plans: Sequence[Plan]) -> None:
    """The folders for compiled kernels. One that cannot be made stops nobody: its worker keeps kernels elsewhere."""
    for plan in plans:
        for folder in plan.caches:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                _log.warning("cache_folder_not_made", gpu=plan.card.number, folder=str(folder), reason=error.strerror)


def supervise(plans: Sequence[Plan], command: Sequence[str]) -> int:
    """Run the workers until a signal, or until none is left; returns the exit code.

    Args:
        command: of a worker.
    """
    wake = threading.Event()
    count = 0

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    make_caches(plans)
    parent = os.getpid()

    def start(plan: Plan) -> Child:
        return subprocess.Popen(
            list(command),
            env={**os.environ, **plan.environment},
            start_new_session=True,
            preexec_fn=lambda: _end_with(parent),
        )

    supervisor = Supervisor(plans, start)
    while (code := supervisor.tick(count, time.monotonic())) is None:
        wake.wait(POLL_S)
    return code


def _end_with(parent: int) -> None:
    """In the child: be drained when the supervisor is killed, or there would be two workers of one name later."""
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
