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
