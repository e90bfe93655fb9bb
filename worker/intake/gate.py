"""When an admitted job may go on: one at a time of an id. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from worker.job import Job, Origin


@dataclass(slots=True)
class Gate:
    """Its owner holds a lock around each call. No call takes longer the more jobs there are, but for `waiting`."""

    _ids: dict[Origin, str] = field(default_factory=dict)
    _inside: dict[str, Origin] = field(default_factory=dict)
    # By id, first come first.
    _waiting: dict[str, OrderedDict[Origin, Job]] = field(default_factory=dict)

    def enter(self, job: Job) -> bool:
        """Whether the job may go on now; else `leave` returns it later."""
        self._ids[job.origin] = job.job_id
        if job.job_id in self._inside:
            self._waiting.setdefault(job.job_id, OrderedDict())[job.origin] = job
            return False
        self._inside[job.job_id] = job.origin
        return True

    def leave(self, origin: Origin) -> list[Job]:
        """Let go of a job that has ended, here or elsewhere; returns the one that may go on now, if there is one."""
        job_id = self._ids.pop(origin, None)
        if job_id is None:
            return []
        waiting = self._waiting.get(job_id, OrderedDict())
        waiting.pop(origin, None)
        if self._inside.get(job_id) == origin:
            del self._inside[job_id]
            if waiting:
                first, job = waiting.popitem(last=False)
                self._inside[job_id] = first
                if not waiting:
                    del self._waiting[job_id]
                return [job]
        if not waiting:
            self._waiting.pop(job_id, None)
        return []

    def waiting(self) -> list[Job]:
        """The jobs that have not been let in."""
        return [job for jobs in self._waiting.values() for job in jobs.values()]
