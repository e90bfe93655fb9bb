"""Child processes: they become ready or fail with a clear error, and are always stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from devtools.local.process import ChildProcess, ProcessError, free_ports, port_is_free

pytestmark = pytest.mark.server

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def alive(pid: int) -> bool:
    """Tell whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def started(command: list[str], tmp_path: Path) -> ChildProcess:
    child = ChildProcess("the child", command, tmp_path / "child.log")
    child.start()
    child.wait_until(lambda: "up" in child.log_tail(), timeout_s=10)
    return child


def test_a_child_is_ready_once_its_predicate_holds_and_is_gone_after_stop(tmp_path: Path) -> None:
    child = started(SLEEPER, tmp_path)
    assert child.running
    child.stop()
    assert not child.running
    assert not alive(child.pid)


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    child = started(STUBBORN, tmp_path)
    child.stop(grace_s=0.2)
    assert not alive(child.pid)


def test_a_suspended_child_can_be_stopped(tmp_path: Path) -> None:
    child = started(SLEEPER, tmp_path)
    child.suspend()
    child.stop(grace_s=5)
    assert not alive(child.pid)


def test_a_child_that_ends_early_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = ChildProcess("the child", [sys.executable, "-c", "raise SystemExit('no disk')"], tmp_path / "log")
    child.start()
    with pytest.raises(ProcessError, match=r"ended with exit code 1.*\n.*no disk"):
        child.wait_until(lambda: False, timeout_s=10)


def test_a_child_that_is_never_ready_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = started(SLEEPER, tmp_path)
    with pytest.raises(ProcessError, match=r"not ready after 0\.1 s.*\nup"):
        child.wait_until(lambda: False, timeout_s=0.1)
    child.kill()


def test_a_program_that_is_missing_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="cannot be started"):
        ChildProcess("the child", ["/no/such/program"], tmp_path / "log").start()


def test_a_child_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    child = ChildProcess("the child", SLEEPER, tmp_path / "log")
    thread = threading.Thread(target=child.start)
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert child.running
    child.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux kills a dead parent's children")
def test_a_child_dies_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from devtools.local.process import ChildProcess\n"
        f"child = ChildProcess('c', {SLEEPER!r}, Path({str(tmp_path / 'log')!r})); child.start()\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_free_ports_are_different_and_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(port_is_free(port) for port in ports)
