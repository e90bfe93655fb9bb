"""Progress of jobs, one line per job: live bars on a terminal, a plain line per change of state elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from worker.cli.output import STATE_STYLES, print_line

MAX_LABEL_CHARS = 44


class JobView(Protocol):
    """Shows the state of each job."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def add(self, job: str, label: str) -> None:
        """Add a job whose state is not known yet."""

    def update(self, job: str, state: str, step: int | None = None, steps: int | None = None) -> None:
        """Show a new state or step of a job that has not ended."""

    def finish(self, job: str, state: str, note: str = "") -> None:
        """Show the final state of a job."""

    def print_line(self, line: Text) -> None:
        """Print a result on standard output."""


def job_view(console: Console, *, keep_finished: bool) -> JobView:
    """Return the view that suits the console; with `keep_finished`, the lines of finished jobs stay visible."""
    return LiveView(console, keep_finished=keep_finished) if console.is_terminal else PlainView(console)


class LiveView:
    """Progress bars that are redrawn in place, for a terminal."""

    def __init__(self, console: Console, *, keep_finished: bool) -> None:
        self._keep = keep_finished
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.fields[state]}"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=18),
            TextColumn("{task.fields[steps]}", justify="right"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            # Standard output may be a file; its content must not be redirected to the terminal.
            redirect_stdout=False,
            refresh_per_second=8,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, job: str, label: str) -> None:
        shown = label if len(label) <= MAX_LABEL_CHARS else f"{label[: MAX_LABEL_CHARS - 1]}…"
        self._tasks[job] = self._progress.add_task(
            escape(shown), total=None, start=False, state=_state("sent"), steps="", note=""
        )

    def update(self, job: str, state: str, step: int | None = None, steps: int | None = None) -> None:
        task = self._task(job)
        if state == "running" and not self._row(task).started:
            self._progress.start_task(task)
        count = f"{step}/{steps}" if step is not None and steps else ""
        self._progress.update(task, state=_state(state), completed=step or 0, total=steps, steps=count)

    def finish(self, job: str, state: str, note: str = "") -> None:
        task = self._task(job)
        if not self._keep:
            self._progress.remove_task(task)
            del self._tasks[job]
            return
        total = self._row(task).total
        if total is None:
            self._progress.update(task, total=1)
        elif state == "completed":
            self._progress.update(task, completed=total, steps=f"{total:.0f}/{total:.0f}")
        self._progress.update(task, state=_state(state), note=escape(note))
        self._progress.stop_task(task)

    def print_line(self, line: Text) -> None:
        if sys.stdout.isatty():
            # The bars share the terminal, so the line must go through their console.
            self._progress.console.print(line, soft_wrap=True)
        else:
            print_line(line)

    def _row(self, task: TaskID) -> Task:
        return self._progress.tasks[self._progress.task_ids.index(task)]

    def _task(self, job: str) -> TaskID:
        if job not in self._tasks:
            self.add(job, job)
        return self._tasks[job]


class PlainView:
    """Prints a line when a job's state changes, but none for a step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._labels: dict[str, str] = {}
        self._states: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: there is no display to stop."""

    def add(self, job: str, label: str) -> None:
        self._labels[job] = label

    def update(self, job: str, state: str, step: int | None = None, steps: int | None = None) -> None:  # noqa: ARG002
        if self._states.get(job) != state:
            self._states[job] = state
            self._print(job, state, "")

    def finish(self, job: str, state: str, note: str = "") -> None:
        self._print(job, state, note)

    def print_line(self, line: Text) -> None:
        print_line(line)

    def _print(self, job: str, state: str, note: str) -> None:
        line = f"{state:<11} {self._labels.get(job, job)}  {note}".rstrip()
        self._console.print(line, markup=False, soft_wrap=True)


def _state(state: str) -> str:
    return f"[{STATE_STYLES.get(state, 'default')}]{state:<11}[/]"
