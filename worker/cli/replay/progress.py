"""Progress of a replay: a bar on a terminal, an occasional line elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from worker.cli.output import print_line

PLAIN_EVERY_S = 5.0


class ReplayProgress:
    """Counts finished jobs out of a known total."""

    def __init__(self, console: Console, what: str, total: int, done: int = 0) -> None:
        self._console = console
        self._what, self._total, self._done = what, total, done
        self._told_at = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=console, redirect_stdout=False, transient=True)
            self._task = self._bar.add_task(what, total=total, completed=done)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        else:
            self._tell()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif error is None:
            self._tell()

    def advance(self) -> None:
        """Count one more finished job."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._task)
        elif time.monotonic() - self._told_at > PLAIN_EVERY_S:
            self._tell()

    def print_line(self, line: Text) -> None:
        """Print a result on standard output."""
        if self._bar is not None and sys.stdout.isatty():
            # The bar shares the terminal, so the line must go through its console.
            self._bar.console.print(line, soft_wrap=True)
        else:
            print_line(line)

    def _tell(self) -> None:
        self._told_at = time.monotonic()
        self._console.print(f"{self._what} {self._done}/{self._total}", markup=False)
