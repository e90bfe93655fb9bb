"""The end of the process by its own decision."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
from worker.threads import SystemThreads
try:
    SystemThreads().end("a flush hangs")
finally:
    print("went on")
"""


def test_the_end_is_told_and_nothing_runs_after_it() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    told = done.stdout + done.stderr
    assert done.returncode == 1
    assert "a flush hangs" in told
    assert "went on" not in told


FROZEN = """
import ctypes
from worker import threads
threads.FROZEN_AFTER_S = 0.2
# A call of C that keeps the interpreter's lock, as librdkafka's rebalance callback does within `close`.
returned = threads.SystemThreads().call("leave", lambda: ctypes.PyDLL(None).sleep(600), 0.2)
print("went on", returned)
"""


def test_a_call_that_freezes_the_interpreter_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", FROZEN], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "went on" not in done.stdout


def test_a_call_that_only_takes_long_is_left_behind() -> None:
    script = FROZEN.replace("PyDLL", "CDLL")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "went on False\n")
