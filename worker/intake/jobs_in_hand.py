"""Which jobs this process works on, by their ids, and whose an id is. Pure, but for a lock.

An id belongs to the request that is worked on under it, and to the one that has its picture. The store knows the second
for one girl only, by its keys; this is what else is known, and so much only of what this process has seen lately.
"""

from __future__ import annotations

import threading

from cachetools import LRUCache

from worker.job import Job, Origin

REMEMBERED_IDS = 10_000


class JobsInHand:
    """Unfinished jobs, as many as intake lets in, and ids whose picture was made. Any thread may call it."""

    def __init__(self, remembered_ids: int = REMEMBERED_IDS) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, dict[Origin, tuple[Job, str]]] = {}
        self._ids: dict[Origin, str] = {}
        self._girls: LRUCache[str, str] = LRUCache(remembered_ids)

    def enter(self, job: Job, digest: str) -> bool:
        """Take a job in; False when its id is another request's.

        Args:
            digest: of the request; equal for two records of the same request.
        """
        with self._lock:
            others = self._jobs.get(job.job_id, {})
            if any(other != digest for _, other in others.values()):
                return False
            if self._girls.get(job.job_id, job.request.girl_id) != job.request.girl_id:
                return False
            self._jobs.setdefault(job.job_id, others)[job.origin] = job, digest
            self._ids[job.origin] = job.job_id
            return True

    def of(self, job_id: str) -> list[Job]:
        """The unfinished jobs with this id: several where the same request was sent more than once."""
        with self._lock:
            return [job for job, _ in self._jobs.get(job_id, {}).values()]

    def on_picture(self, job: Job) -> None:
        """The job's picture is in the store, so its id stays taken."""
        with self._lock:
            self._girls[job.job_id] = job.request.girl_id

    def leave(self, origin: Origin) -> None:
        """The job is finished or released; unknown origins are ignored."""
        with self._lock:
            job_id = self._ids.pop(origin, None)
            if job_id is not None:
                jobs = self._jobs[job_id]
                del jobs[origin]
                if not jobs:
                    del self._jobs[job_id]
