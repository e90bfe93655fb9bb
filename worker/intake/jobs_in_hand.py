"""Which jobs this process has started, by their ids, and which girl's an id is. Pure, but for a lock.

An id belongs to the request that has its picture. Keys in the store begin with the girl, so it can tell for one only;
which girl it is, a process knows of the pictures that it has made or found lately.
"""

from __future__ import annotations

import threading

from cachetools import LRUCache

from worker.job import Job, Origin

REMEMBERED_IDS = 10_000


class JobsInHand:
    """Started and unfinished jobs, fewer than intake lets in, and whose pictures there are. Any thread may call it."""

    def __init__(self, remembered_ids: int = REMEMBERED_IDS) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, dict[Origin, Job]] = {}
        self._ids: dict[Origin, str] = {}
        self._girls: LRUCache[str, str] = LRUCache(remembered_ids)

    def enter(self, job: Job) -> None:
        """A job goes to the engine."""
        with self._lock:
            self._jobs.setdefault(job.job_id, {})[job.origin] = job
            self._ids[job.origin] = job.job_id

    def of(self, job_id: str) -> list[Job]:
        """The started and unfinished jobs with this id."""
        with self._lock:
            return list(self._jobs.get(job_id, {}).values())

    def leave(self, origin: Origin) -> None:
        """The job is finished or released; unknown origins are ignored."""
        with self._lock:
            job_id = self._ids.pop(origin, None)
            if job_id is not None:
                jobs = self._jobs[job_id]
                del jobs[origin]
                if not jobs:
                    del self._jobs[job_id]

    def on_picture(self, job: Job) -> None:
        """The job's picture is in the store."""
        with self._lock:
            self._girls[job.job_id] = job.request.girl_id

    def girl_of(self, job_id: str) -> str | None:
        """Whose picture was made under the id, where that is known."""
        with self._lock:
            found: str | None = self._girls.get(job_id)
            return found
