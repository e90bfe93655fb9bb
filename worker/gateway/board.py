"""What is known of each job, from the topics alone, for as many jobs as fit. Pure; one thread uses it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain

from worker.events.types import GenerationStatus, JobStatus
from worker.job import MAX_NAME_CHARS, SAFE_NAME, Lane

ENDED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})

# A foreign status record may be as large as brokers take, and thousands are remembered.
_MAX_TEXT_CHARS = 600
_MAX_URL_CHARS = 4_096


@dataclass(frozen=True, slots=True)
class Entry:
    """One job.

    Args:
        partition, offset: of the status record; None: the event was made from a request.
        digest: what the request asks for (`delivery.digest.request_digest`), where a request was seen.
    """

    event: GenerationStatus
    partition: int | None = None
    offset: int | None = None
    digest: str | None = None

    @property
    def ended(self) -> bool:
        return self.event.status in ENDED


class _ByTime:
    """Entries by job id, and which is the oldest by its own time: partitions are not read in the order of time."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        # May hold times that do not count any more.
        self._heap: list[tuple[datetime, str]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, job_id: str) -> Entry | None:
        return self._entries.get(job_id)

    def pop(self, job_id: str) -> Entry | None:
        return self._entries.pop(job_id, None)

    def put(self, entry: Entry) -> None:
        self._entries[entry.event.job_id] = entry
        heapq.heappush(self._heap, (entry.event.updated_at, entry.event.job_id))
        if len(self._heap) > 2 * len(self._entries) + 100:
            self._heap = [(one.event.updated_at, job_id) for job_id, one in self._entries.items()]
            heapq.heapify(self._heap)

    def oldest(self) -> str:
        while True:
            at, job_id = self._heap[0]
            entry = self._entries.get(job_id)
            if entry is not None and entry.event.updated_at == at:
                return job_id
            heapq.heappop(self._heap)

    def latest(self) -> list[Entry]:
        return sorted(self._entries.values(), key=lambda entry: entry.event.updated_at, reverse=True)


class Board:
    """The latest jobs, at most `limit`. Of too many, those that ended first, by their own times, are forgotten first.

    Later records of one partition replace earlier ones; an earlier one that is read again changes nothing. Producers in
    other languages may hash keys otherwise, so a job may be on two partitions: between these, `updated_at` decides.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open = _ByTime()
        self._ended = _ByTime()
        self._waiting = [0] * len(Lane)
        self._running = [0] * len(Lane)
        self.complete = True

    def __len__(self) -> int:
        return len(self._open) + len(self._ended)

    def get(self, job_id: str) -> Entry | None:
        """The job, or None where it is not known or was forgotten."""
        return self._open.get(job_id) or self._ended.get(job_id)

    def latest(self) -> Iterator[Entry]:
        """Every job; those that are not finished first, then the most recently changed."""
        return chain(self._open.latest(), self._ended.latest())

    def counts(self, lane: Lane) -> tuple[int, int]:
        """How many jobs of a lane wait, and how many run."""
        return self._waiting[lane], self._running[lane]

    def on_status(self, event: GenerationStatus, partition: int, offset: int) -> Entry | None:
        """Take a status record; the job's new entry, or None where the record changes nothing."""
        if not event.job_id or len(event.job_id) > MAX_NAME_CHARS:
            return None
        known = self.get(event.job_id)
        if known is not None and _is_older(event, partition, offset, known):
            return None
        entry = Entry(_bounded(event), partition, offset, None if known is None else known.digest)
        self._put(entry)
        return entry

    def on_tombstone(self, job_id: str, partition: int) -> None:
        """A status record without a value: the job was forgotten on purpose."""
        known = self.get(job_id)
        if known is not None and known.partition == partition:
            self._remove(job_id)

    def on_request(self, queued: GenerationStatus, digest: str) -> Entry | None:
        """Take a request record: its job is queued, unless more is known of it.

        Only a job of which nothing is known: a request that is read again after its job has ended changes nothing. An
        id that can be none is refused by workers, under an id of bounded length.
        """
        if not SAFE_NAME.fullmatch(queued.job_id):
            return None
        known = self.get(queued.job_id)
        if known is None:
            entry = Entry(_bounded(queued), digest=digest)
            self._put(entry)
            return entry
        if known.digest is None:
            self._table(known).put(replace(known, digest=digest))
        return None

    def on_sent(self, queued: GenerationStatus, digest: str, before: Entry | None) -> Entry | None:
        """A request was acknowledged: its job is queued, unless something arrived since `before` was looked up."""
        now = self.get(queued.job_id)
        if now is not None and (before is None or now.event is not before.event):
            return None
        entry = Entry(_bounded(queued), digest=digest)
        self._put(entry)
        return entry

    def _put(self, entry: Entry) -> None:
        self._remove(entry.event.job_id)
        self._table(entry).put(entry)
        self._count(entry, 1)
        while len(self) > self._limit:
            table = self._ended if len(self._ended) else self._open
            self.complete = self.complete and table is self._ended
            self._remove(table.oldest())

    def _remove(self, job_id: str) -> None:
        known = self._open.pop(job_id) or self._ended.pop(job_id)
        if known is not None:
            self._count(known, -1)
        if not len(self._open):
            self.complete = True

    def _table(self, entry: Entry) -> _ByTime:
        return self._ended if entry.ended else self._open

    def _count(self, entry: Entry, change: int) -> None:
        lane = lane_of(entry.event)
        if lane is not None and not entry.ended:
            counts = self._running if entry.event.status is JobStatus.RUNNING else self._waiting
            counts[lane] += change


def lane_of(event: GenerationStatus) -> Lane | None:
    """The lane that a status names; None where it names none."""
    return next((lane for lane in Lane if lane.label == event.priority.value), None)


def _is_older(event: GenerationStatus, partition: int, offset: int, known: Entry) -> bool:
    if known.partition is None or known.offset is None:
        return False
    # After the topic was made anew, offsets begin again and times go on.
    again = partition == known.partition and offset <= known.offset and event.updated_at <= known.event.updated_at
    return again or (partition != known.partition and event.updated_at < known.event.updated_at)


def _bounded(event: GenerationStatus) -> GenerationStatus:
    """The event with texts that are short enough to be kept by the thousand."""
    message = event.error_message
    if message is not None and len(message) > _MAX_TEXT_CHARS:
        message = f"{message[: _MAX_TEXT_CHARS - 1]}…"
    return replace(
        event,
        girl_id=event.girl_id[:MAX_NAME_CHARS],
        worker_id=event.worker_id[:MAX_NAME_CHARS],
        error_message=message,
        image_url=_bounded_url(event.image_url),
        thumbnail_url=_bounded_url(event.thumbnail_url),
    )


def _bounded_url(url: str | None) -> str | None:
    return url if url is None or len(url) <= _MAX_URL_CHARS else None
