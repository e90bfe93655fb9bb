"""Who listens to which jobs: each listener holds the latest state of a bounded number of jobs. One thread uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from worker.events.types import GenerationStatus

# Different jobs that a listener may fall behind by before it is given up.
MAX_BEHIND = 2_000

Wanted = Callable[[GenerationStatus], bool]


class TooManyStreams(Exception):
    """As many listeners as are allowed are there already."""


class Listener:
    """The events that one stream has not sent yet: the latest of each job."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.closed = False
        self._pending: dict[str, GenerationStatus] = {}
        self._wake = asyncio.Event()

    def offer(self, event: GenerationStatus) -> None:
        """Note an event that is wanted; a listener that is too far behind is closed."""
        if self.closed:
            return
        self._pending.pop(event.job_id, None)
        self._pending[event.job_id] = event
        if len(self._pending) > MAX_BEHIND:
            self._pending.clear()
            self.closed = True
        self._wake.set()

    def close(self) -> None:
        """What is pending is still given out, and nothing after it."""
        self.closed = True
        self._wake.set()

    async def next(self, timeout_s: float) -> list[GenerationStatus]:
        """What has happened since the last call, oldest first; empty after `timeout_s`, or when it is closed."""
        if not self._pending and not self.closed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
        self._wake.clear()
        events = list(self._pending.values())
        self._pending.clear()
        return events


class Hub:
    """All listeners, at most `limit`: those of one job by its id, and those of all jobs."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._of_job: dict[str, set[Listener]] = {}
        self._of_all: set[Listener] = set()
        self._count = 0
        self._closed = False

    def __len__(self) -> int:
        return self._count

    def listen(self, job_id: str | None, wanted: Wanted = lambda _: True) -> Listener:
        """A new listener to one job, or to all. Raises TooManyStreams."""
        if self._count >= self._limit or self._closed:
            raise TooManyStreams
        listener = Listener(wanted)
        (self._of_all if job_id is None else self._of_job.setdefault(job_id, set())).add(listener)
        self._count += 1
        return listener

    def leave(self, job_id: str | None, listener: Listener) -> None:
        """The listener's stream has ended; may be called twice."""
        group = self._of_all if job_id is None else self._of_job.get(job_id, set())
        if listener in group:
            group.remove(listener)
            self._count -= 1
        if job_id is not None and not group:
            self._of_job.pop(job_id, None)

    def publish(self, event: GenerationStatus) -> None:
        """Tell everybody who wants to know."""
        for listener in self._of_all:
            if listener.wanted(event):
                listener.offer(event)
        for listener in self._of_job.get(event.job_id, ()):
            listener.offer(event)

    def close(self) -> None:
        """End every stream, and let no new one begin."""
        self._closed = True
        for listener in (*self._of_all, *(one for group in self._of_job.values() for one in group)):
            listener.close()
