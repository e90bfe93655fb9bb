"""Runs the checks beside each other, each in a process of its own that is killed when its time is up."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from worker.doctor.checks import Check
from worker.doctor.finding import Finding, Level, failed
from worker.settings import Settings

# Each takes a processor for the second or two of its imports.
AT_ONCE = 4
# A killed process that hangs in the kernel keeps its end of the pipe; it is not waited for.
_AFTER_KILL_S = 2.0
_ROOT = Path(__file__).resolve().parents[2]


class Running:
    """One check under way.

    Args:
        gate: entered for as long as the check runs.
    """

    def __init__(self, check: Check, settings: Settings, gate: threading.Semaphore) -> None:
        self.check = check
        self._settings = settings
        self._gate = gate
        self._found: list[Finding] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = threading.Event()
        self._timed_out = False
        self._stopped = False
        self._holds_gate = threading.Lock()
        # A daemon, since the pipe of a process that hangs in the kernel never ends.
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"doctor-{check.name}")
        self._thread.start()

    def findings(self) -> list[Finding]:
        """Wait until the check has ended or its time is up; what it has found until then."""
        self._begun.wait()
        self._thread.join(self.check.timeout_s + _AFTER_KILL_S)
        found = list(self._found)
        if self._thread.is_alive() or self._timed_out:
            found.append(
                failed(
                    self.check.name,
                    f"no answer within {self.check.timeout_s:g} s",
                    "something that it asks does not answer, or this machine is very busy; run it again",
                )
            )
            return found
        code = None if self._process is None else self._process.returncode
        if code:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            found.append(
                failed(self.check.name, f"the check's process ended with {how}", "a library crashed; run it again")
            )
        # A check that tells nothing must not look like one that found nothing wrong.
        return found or [failed(self.check.name, "the check told nothing", "this is a fault of the check itself")]

    def stop(self) -> None:
        """End the process, if there is one."""
        self._stopped = True
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _run(self) -> None:
        self._gate.acquire()
        self._holds_gate.acquire()
        self._begun.set()
        try:
            if not self._stopped:
                self._ask()
        except OSError as error:
            self._found.append(failed(self.check.name, f"no process can be started: {error.strerror}", "see memory"))
        finally:
            self._release_gate()

    def _ask(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker.doctor.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), *_python_path()])},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(self.check.timeout_s, self._time_out)
        timer.daemon = True
        timer.start()
        try:
            self._process.stdin.write(pickle.dumps((self.check, self._settings)))
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # its exit code says more
        with self._process.stdout as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # killed in the middle of it
                told = json.loads(line)
                self._found.append(Finding(Level(told["level"]), told["subject"], told["text"], told["advice"]))
        self._process.wait()
        timer.cancel()

    def _time_out(self) -> None:
        self._timed_out = True
        self.stop()
        # Not left to the thread, which may never come back: the next check would wait for it.
        self._release_gate()

    def _release_gate(self) -> None:
        """Let the next check begin, once."""
        try:
            self._holds_gate.release()
        except RuntimeError:
            return
        self._gate.release()


class Examination:
    """All checks; they begin when it is entered, and none is left when it is left.

    Args:
        checks: in the order in which they are told.
    """

    def __init__(self, checks: Sequence[Check], settings: Settings) -> None:
        self._checks = checks
        self._settings = settings
        self._running: list[Running] = []

    def __enter__(self) -> Self:
        gate = threading.Semaphore(AT_ONCE)
        self._running = [Running(check, self._settings, gate) for check in self._checks]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._running:
            running.stop()

    def results(self) -> Iterator[tuple[Check, list[Finding], float]]:
        """Each check with its findings and the seconds since the beginning, in order."""
        began = time.monotonic()
        for running in self._running:
            yield running.check, running.findings(), time.monotonic() - began


def _python_path() -> list[str]:
    return [part for part in [os.environ.get("PYTHONPATH", "")] if part]
