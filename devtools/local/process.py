"""Child processes that log to a file, can be waited for until ready, and never outlive their parent."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

LOOPBACK = "127.0.0.1"
POLL_INTERVAL_S = 0.05
LOG_TAIL_LINES = 30

# Below the ephemeral range of every system. A port in that range could be taken by an outgoing connection while its
# server restarts, or by a client that retries and connects to itself.
PORT_RANGE = range(20_000, 30_000)

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class ProcessError(RuntimeError):
    """A child process did not start, was not ready in time, or ended unexpectedly."""


def free_ports(count: int) -> list[int]:
    """Return `count` different loopback ports on which nothing listens now."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        for port in random.sample(PORT_RANGE, len(PORT_RANGE)):
            if len(ports) == count:
                return ports
            with contextlib.suppress(OSError):
                held.enter_context(_bound(port))
                ports.append(port)
    raise ProcessError(f"could not find {count} free ports on {LOOPBACK} in {PORT_RANGE}")


def free_port() -> int:
    """Return a loopback port on which nothing listens now."""
    return free_ports(1)[0]


def port_is_free(port: int) -> bool:
    """Return whether a server could listen on this loopback port now."""
    try:
        _bound(port).close()
    except OSError:
        return False
    return True


def _bound(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((LOOPBACK, port))
    except OSError:
        bound.close()
        raise
    return bound


class ChildProcess:
    """A server process that can be started, waited for, suspended, resumed, stopped, killed and started again.

    Its output is appended to `log_path`. On Linux the kernel kills the child when this process ends for any reason; on
    other systems the child is only stopped by an orderly exit.
    """

    def __init__(self, name: str, command: Sequence[str], log_path: Path, env: Mapping[str, str] | None = None) -> None:
        """Describe the child; `env` is added to this process's own environment."""
        self.name = name
        self.log_path = log_path
        self._command = list(command)
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The child's process id; raises `ProcessError` if it was never started."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether the child was started and has not ended; a suspended child counts as running."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The child's exit code, minus the number of the signal that ended it, or None while it runs."""
        return self._started().poll()

    def start(self) -> None:
        """Start the child; raises `ProcessError` if it is already running or cannot be executed."""
        if self.running:
            raise ProcessError(f"{self.name} is already running as process {self.pid}")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._process = _SPAWNER.run(self._spawn)
        except OSError as error:
            raise ProcessError(f"{self.name} cannot be started: {error}") from error
        _CHILDREN.add(self)

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Return when `ready()` is true.

        Raises:
            ProcessError: the child ended first, or was not ready after `timeout_s` seconds; the message contains the
                end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                code = self._started().returncode
                raise ProcessError(f"{self.name} ended with exit code {code}{self._log_excerpt()}")
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} was not ready after {timeout_s:g} s{self._log_excerpt()}")
            time.sleep(POLL_INTERVAL_S)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this child only; does nothing if it has ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def terminate(self) -> None:
        """Send SIGTERM to the child, after resuming it if it is suspended, and return without waiting."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)

    def stop(self, grace_s: float = 10.0) -> None:
        """End the child with SIGTERM, and with SIGKILL after `grace_s` seconds."""
        self.terminate()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self.kill()

    def kill(self) -> None:
        """End the child with SIGKILL, and wait until it has ended."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
        _CHILDREN.discard(self)

    def suspend(self) -> None:
        """Suspend the child (SIGSTOP): its sockets stay open, but it does not answer."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume a suspended child (SIGCONT)."""
        self.signal(signal.SIGCONT)

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """Return the last lines of the child's log, or an empty string if there is no log."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def _log_excerpt(self) -> str:
        return f"; the end of {self.log_path}:\n{self.log_tail()}"

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ProcessError(f"{self.name} was not started")
        return self._process

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self._env,
                start_new_session=True,  # Ctrl-C must only reach the parent, which then stops its children
                preexec_fn=die_with_parent(),
            )


def die_with_parent() -> Callable[[], None] | None:
    """Return the function that a new child runs so that the kernel kills it with its parent; None except on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # the parent ended before the signal was set up
            os._exit(1)

    return arm


class _Spawner:
    """Forks every child from one thread that lives as long as the process.

    PR_SET_PDEATHSIG is sent when the *thread* that forked ends, not only when its process does: a child that was
    started from a short-lived thread would be killed with that thread.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def run(self, spawn: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Run `spawn` on the spawner's thread; return its result or raise its exception."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="child-spawner", daemon=True)
                self._thread.start()
        result: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((spawn, result))
        return result.result()

    def _serve(self) -> None:
        while True:
            spawn, result = self._jobs.get()
            try:
                result.set_result(spawn())
            except Exception as error:  # run() raises it on the caller's thread
                result.set_exception(error)


_SPAWNER = _Spawner()
_CHILDREN: weakref.WeakSet[ChildProcess] = weakref.WeakSet()


@atexit.register
def _stop_children() -> None:
    children = [child for child in _CHILDREN if child.running]
    for child in children:
        child.terminate()
    for child in children:
        child.stop(grace_s=5.0)
