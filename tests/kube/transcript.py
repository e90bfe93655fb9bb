"""What was done and what came of it, on the screen and in a file that a person can read."""

from __future__ import annotations

import time
from pathlib import Path


class Transcript:
    """Written line by line, so that an interrupted run leaves what it had."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w")
        self._began = time.monotonic()
        self.failures: list[str] = []
        self.passed = 0

    def heading(self, text: str) -> None:
        self._write(f"\n## {text} ({time.monotonic() - self._began:.0f} s)")

    def note(self, text: str) -> None:
        self._write(f"# {text}")

    def command(self, command: str, output: str) -> None:
        self._write(f"$ {command}")
        if output.strip():
            self._write(output.rstrip())

    def check(self, what: str, is_so: bool, detail: str = "") -> None:
        """A verdict. The run goes on after a failure, and ends with exit code 1."""
        self._write(f"{'ok  ' if is_so else 'FAIL'} {what}" + (f": {detail}" if detail else ""))
        if is_so:
            self.passed += 1
        else:
            self.failures.append(what)

    def close(self) -> None:
        self.heading("verdict")
        self._write(f"{self.passed} checks passed, {len(self.failures)} failed")
        for failure in self.failures:
            self._write(f"failed: {failure}")
        self._file.close()

    def _write(self, line: str) -> None:
        print(line, flush=True)
        self._file.write(line + "\n")
        self._file.flush()
