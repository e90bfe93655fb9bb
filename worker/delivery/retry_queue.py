"""A bounded pool's queue: encoding and S3, most urgent first, tried again while S3 does not answer."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from types import MappingProxyType

import structlog

from worker.errors import StoreUnavailable
from worker.job import Lane
from worker.telemetry import logs, metrics

_BACKOFF_FIRST_S = 0.25
_BACKOFF_MAX_S = 10.0

_log = structlog.get_logger()

Task = Callable[[], None]

_NOTHING: logs.About = MappingProxyType({})


@dataclass(slots=True, order=True)
class _Entry:
    """A task in its place: by lane, then by when it came or came back."""

    lane: Lane
    sequence: int
    task: Task = field(compare=False)
    about: logs.About = field(compare=False)
    tries: int = field(default=0, compare=False)


class RetryQueue:
    """Tasks for the pool's threads. It holds at most the jobs that intake has let in, so it needs no bound of its own.

    A task that raises StoreUnavailable waits and runs again, so it must be safe to repeat.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._ready: list[_Entry] = []
        self._delayed: list[tuple[float, _Entry]] = []
        self._sequence = count()
        self._failing = False

    @property
    def store_up(self) -> bool:
        """False from the first refusal of S3 until it answers again."""
        return not self._failing

    def __len__(self) -> int:
        return len(self._ready) + len(self._delayed)

    def add(self, lane: Lane, task: Task, about: logs.About = _NOTHING) -> None:
        """Add a task; any thread may. `about` is on every line that is logged while it runs."""
        with self._changed:
            heapq.heappush(self._ready, _Entry(lane, next(self._sequence), task, about))
            self._changed.notify()

    def run_one(self) -> bool:
        """Run the most urgent task that is due; False when none is."""
        with self._changed:
            self._promote()
            if not self._ready:
                return False
            entry = heapq.heappop(self._ready)
        with logs.within(entry.about):
            try:
                entry.task()
            except StoreUnavailable as error:
                self._delay(entry, str(error))
                return True
        self._set_failing(False)
        return True

    def wait(self, timeout_s: float) -> None:
        """Sleep until something is due, at most `timeout_s`."""
        with self._changed:
            self._promote()
            if not self._ready:
                due = self._delayed[0][0] - self._clock() if self._delayed else timeout_s
                self._changed.wait(max(0.0, min(timeout_s, due)))

    def next_due(self) -> float | None:
        """When the next delayed task is due, in the clock's seconds; None when nothing is delayed."""
        return self._delayed[0][0] if self._delayed else None

    def _promote(self) -> None:
        now = self._clock()
        while self._delayed and self._delayed[0][0] <= now:
            _, entry = heapq.heappop(self._delayed)
            entry.sequence = next(self._sequence)
            heapq.heappush(self._ready, entry)

    def _delay(self, entry: _Entry, reason: str) -> None:
        self._set_failing(True)
        metrics.UPLOADS.labels("retried").inc()
        pause = min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2**entry.tries)
        entry.tries += 1
        _log.warning("store_unavailable", reason=reason, tries=entry.tries, retry_in_s=pause)
        with self._changed:
            heapq.heappush(self._delayed, (self._clock() + pause, entry))

    def _set_failing(self, failing: bool) -> None:
        self._failing = failing
        metrics.STORE_UP.set(not failing)
