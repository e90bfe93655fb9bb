"""When an admitted job may go on: one at a time of an id. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.job import Job, Origin


@dataclass(slots=True)
class Gate:
    """Its owner holds a lock around each call."""

    _inside: dict[Origin, Job] = field(default_factory=dict)
    _waiting: dict[Origin, Job] = field(default_factory=dict)

    def enter(self, job: Job) -> bool:
        """Whether the job may go on now; else `leave` returns it later."""
        may = self._may_enter(job)
        (self._inside if may else self._waiting)[job.origin] = job
        return may

    def leave(self, origin: Origin) -> list[Job]:
        """Let go of a job that has ended, here or elsewhere; returns those that may go on now, first come first."""
        self._inside.pop(origin, None)
        self._waiting.pop(origin, None)
        free = []
        for job in list(self._waiting.values()):
            if self._may_enter(job):
                self._inside[job.origin] = self._waiting.pop(job.origin)
                free.append(job)
        return free

    def waiting(self) -> list[Job]:
        """The jobs that have not been let in."""
        return list(self._waiting.values())

    def _may_enter(self, job: Job) -> bool:
        return not any(other.job_id == job.job_id for other in self._inside.values())
