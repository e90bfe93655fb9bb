"""Which results `watch` shows, and the summary that it keeps up to date on a terminal."""

from __future__ import annotations

import statistics
import sys
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

from worker.cli.output import print_line
from worker.errors import ErrorCode
from worker.events.headers import Result, job_status
from worker.events.types import GenerationCompleted, GenerationFailed, JobStatus

LANES = ("urgent", "high", "normal")
# The latest waits of each lane, of which the median is shown.
WAITS_KEPT = 200
REFRESH_S = 0.5


@dataclass(frozen=True, slots=True)
class Filter:
    """Every set narrows; an empty one does not. `failed` leaves only jobs that ended without a picture."""

    lanes: frozenset[str] = frozenset()
    job_ids: frozenset[str] = frozenset()
    girl_ids: frozenset[str] = frozenset()
    user_ids: frozenset[int] = frozenset()
    failed: bool = False
    codes: frozenset[ErrorCode] = frozenset()

    def takes(self, event: Result) -> bool:
        """Whether the event is shown."""
        code = None if isinstance(event, GenerationCompleted) else event.error_code
        return (
            (not self.lanes or event.priority.value in self.lanes)
            and (not self.job_ids or event.job_id in self.job_ids)
            and (not self.girl_ids or event.girl_id in self.girl_ids)
            and (not self.user_ids or event.user_id in self.user_ids)
            and (not self.failed or code is not None)
            and (not self.codes or code in self.codes)
        )


def moment_of(event: Result) -> datetime:
    """When it happened, in UTC."""
    if isinstance(event, GenerationCompleted):
        moment = event.completed_at
    else:
        moment = event.failed_at if isinstance(event, GenerationFailed) else event.updated_at
    return moment.astimezone(UTC)


class Summary:
    """Counts results; on a terminal it shows them in a line below the results, and leaves that line at the end.

    Args:
        now: seconds of a steady clock.
    """

    def __init__(self, console: Console, now: float) -> None:
        self._console = console
        self._shown_at = now
        self._done: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._waits: dict[str, deque[float]] = {}
        self._status: Status | None = console.status("nothing yet") if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
            self._console.print(self.text(), markup=False, style="dim")

    def add(self, event: Result) -> None:
        """Count a result; a status event is none."""
        lane = event.priority.value
        if isinstance(event, GenerationCompleted):
            self._done[lane] += 1
            self._waits.setdefault(lane, deque(maxlen=WAITS_KEPT)).append(event.queue_time)
        elif isinstance(event, GenerationFailed):
            code = "cancelled" if job_status(event) is JobStatus.CANCELLED else event.error_code.value
            self._failed[code] += 1

    def refresh(self, now: float) -> None:
        """Show what is new, a few times a second."""
        if self._status is not None and now - self._shown_at >= REFRESH_S:
            self._shown_at = now
            self._status.update(Text(self.text()))

    def text(self) -> str:
        """The counts in one line."""
        lanes = [lane for lane in (*LANES, *sorted(self._done.keys() - set(LANES))) if self._done[lane]]
        by_lane = ", ".join(
            f"{lane} {self._done[lane]} (median wait {statistics.median(self._waits[lane]):.1f} s)" for lane in lanes
        )
        codes = ", ".join(f"{code} {count}" for code, count in self._failed.most_common())
        done, failed = self._done.total(), self._failed.total()
        return f"{done} completed{f': {by_lane}' if by_lane else ''}; {failed} failed{f': {codes}' if codes else ''}"

    def print_line(self, line: Text) -> None:
        """Print a result on standard output."""
        if self._status is not None and sys.stdout.isatty():
            # The summary shares the terminal, so the line must go through its console.
            self._status.console.print(line, soft_wrap=True)
        else:
            print_line(line)
