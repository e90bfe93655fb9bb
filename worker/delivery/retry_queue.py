"""A bounded pool's queue: encoding and S3, most urgent first, tried again while S3 does not answer.

Reading and writing fail separately: a disabled key or a full quota refuses every put and answers every look-up. While
one of them fails, its tasks wait and one at a time is tried (the probe), a different one each time, less and less often
up to `_PAUSE_MAX_S`. The first that succeeds lets all go. A task that fails while others of its kind succeed has a
trouble of its own: it waits alone and holds up nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from types import MappingProxyType

import structlog

from worker.errors import StoreUnavailable
from worker.job import Lane
from worker.telemetry import logs, metrics

_PAUSE_FIRST_S = 0.25
_PAUSE_MAX_S = 10.0
_DOUBLINGS = 6  # from the first pause beyond the longest

_log = structlog.get_logger()

# Returns False where S3 was not asked, so that nothing was learnt about it.
Task = Callable[[], bool | None]

_NOTHING: logs.About = MappingProxyType({})


@dataclass(slots=True)
class _Way:
    """Reading or writing: whether it works, and if not, when it is tried next."""

    name: str
    failing_since: float | None = None
    reason: str = ""
    probe: _Entry | None = None
    retry_at: float = 0.0
    probes: int = 0
    successes: int = 0

    def is_open(self, now: float) -> bool:
        """Whether one of its tasks may run now."""
        return self.failing_since is None or (self.probe is None and now >= self.retry_at)


@dataclass(slots=True)
class _Entry:
    """A task in its place.

    `due` is for a task with a trouble of its own; `successes` counts those of its kind when it last failed.
    """

    lane: Lane
    sequence: int
    task: Task
    about: logs.About
    way: _Way
    tries: int = 0
    due: float = 0.0
    successes: int = field(default=0)

    @property
    def rank(self) -> tuple[int, Lane, int]:
        """By lane, then first-come; while S3 fails, those that were tried least go first, whatever their lane."""
        return (0 if self.way.failing_since is None else self.tries, self.lane, self.sequence)


class RetryQueue:
    """Tasks for the pool's threads. It holds at most the jobs that intake has let in, so it needs no bound of its own.

    A task that raises StoreUnavailable waits and runs again, so it must be safe to repeat.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: list[_Entry] = []
        self._sequence = count()
        self._reading, self._writing = _Way("reading"), _Way("writing")

    @property
    def store_up(self) -> bool:
        """False from the first refusal of S3 until it answers again, for reading and writing alike."""
        return self._reading.failing_since is None and self._writing.failing_since is None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, lane: Lane, task: Task, about: logs.About = _NOTHING, *, writes: bool = False) -> None:
        """Add a task; any thread may. `about` is on every line that is logged while it runs."""
        way = self._writing if writes else self._reading
        with self._changed:
            self._waiting.append(_Entry(lane, next(self._sequence), task, about, way))
            self._changed.notify()

    def run_one(self) -> bool:
        """Run the most urgent task that may run; False when there is none."""
        entry = self._take()
        if entry is None:
            return False
        with logs.within(entry.about):
            try:
                answered = entry.task() is not False
            except StoreUnavailable as error:
                self._on_refused(entry, str(error))
                return True
        self._on_done(entry, answered)
        return True

    def wait(self, timeout_s: float) -> None:
        """Sleep until a task may run, at most `timeout_s`."""
        with self._changed:
            now = self._clock()
            # A probe that is under way wakes the others when it ends.
            due = [max(entry.due, entry.way.retry_at) for entry in self._waiting if entry.way.probe is None]
            self._changed.wait(max(0.0, min([timeout_s, *(at - now for at in due)])))

    def _take(self) -> _Entry | None:
        with self._changed:
            now = self._clock()
            ready = [entry for entry in self._waiting if entry.due <= now and entry.way.is_open(now)]
            if not ready:
                return None
            entry = min(ready, key=lambda entry: entry.rank)
            self._waiting.remove(entry)
            if entry.way.failing_since is not None:
                entry.way.probe = entry
            return entry

    def _on_refused(self, entry: _Entry, reason: str) -> None:
        metrics.UPLOADS.labels("retried").inc()
        with self._changed:
            way, now = entry.way, self._clock()
            is_alone = way.failing_since is None and entry.tries > 0 and way.successes > entry.successes
            entry.tries += 1
            entry.successes = way.successes
            entry.sequence = next(self._sequence)
            if is_alone:
                entry.due = now + _pause(entry.tries)
                _log.warning("store_refuses_one", reason=reason, tries=entry.tries, retry_in_s=entry.due - now)
            else:
                self._note_failure(way, entry, reason, now)
            self._waiting.append(entry)
            self._changed.notify()

    def _note_failure(self, way: _Way, entry: _Entry, reason: str, now: float) -> None:
        if way.failing_since is None:
            way.failing_since, way.reason, way.probes = now, "", 0
            way.probe = entry
            metrics.STORE_UP.set(0)
        # Tasks that were under way when it began to fail tell nothing new, but another answer does.
        if reason != way.reason:
            _log.warning("store_unavailable", what=way.name, reason=reason)
            way.reason = reason
        if way.probe is entry:
            way.probe = None
            way.retry_at = now + _pause(way.probes)
            way.probes += 1

    def _on_done(self, entry: _Entry, answered: bool) -> None:
        with self._changed:
            way = entry.way
            if way.probe is entry:
                way.probe = None
                self._changed.notify()
            if not answered:
                return
            way.successes += 1
            if way.failing_since is not None:
                outage_s = self._clock() - way.failing_since
                way.failing_since, way.probe, way.retry_at = None, None, 0.0
                metrics.STORE_UP.set(self.store_up)
                _log.info("store_available", what=way.name, outage_s=round(outage_s, 3))
                self._changed.notify_all()


def _pause(failures: int) -> float:
    return float(min(_PAUSE_MAX_S, _PAUSE_FIRST_S * 2 ** min(failures, _DOUBLINGS)))
