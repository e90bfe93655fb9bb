"""A person at a shell: a verb as a process of its own, and what is asked of every mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORKER = [sys.executable, "-m", "worker"]


def environment(**changes: str | None) -> dict[str, str]:
    """This process's environment without anybody's settings."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "AWS_", "SDXL_"))}
    own |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100", "HTTP_HOST": "127.0.0.1"}
    for name, value in changes.items():
        if value is None:
            own.pop(name, None)
        else:
            own[name] = value
    return own


def call(arguments: Sequence[str | bytes], cwd: Path, /, **changes: str | None) -> subprocess.CompletedProcess[bytes]:
    """Run a verb to its end."""
    return call_with(b"", arguments, cwd, **changes)


def call_with(
    stdin: bytes, arguments: Sequence[str | bytes], cwd: Path, /, **changes: str | None
) -> subprocess.CompletedProcess[bytes]:
    """The same with something on standard input."""
    return subprocess.run(
        [*WORKER, *arguments], cwd=cwd, env=environment(**changes), input=stdin, capture_output=True, timeout=90
    )


def shell(line: str, cwd: Path, **changes: str | None) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which W stands for the worker's command line."""
    command = line.replace("W ", f"{' '.join(WORKER)} ")
    return subprocess.run(["bash", "-c", command], cwd=cwd, env=environment(**changes), capture_output=True, timeout=90)


def assert_one_line(done: subprocess.CompletedProcess[bytes], code: int, *said: str) -> None:
    """Nothing on standard output, one line on standard error, and the exit code."""
    errors = done.stderr.decode()
    assert done.returncode == code, errors
    assert done.stdout == b""
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith("error: ")
    for text in said:
        assert text in errors
