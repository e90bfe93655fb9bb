"""A fleet without a dispatcher: each partition is a queue of its own. Pure.

A request comes to a partition drawn at random. A worker serves its partitions' requests one after another, the most
urgent first, and parks a less urgent one (as `devtools.capacity` assumes).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

from devtools.autoscaling.day import Day, Job
from devtools.autoscaling.policy import Policy


@dataclass(slots=True)
class _Worker:
    waiting: list[tuple[Job, int]] = field(default_factory=list)
    job: tuple[Job, int] | None = None
    since: float = 0.0
    # Counts its jobs, so that the end of a parked one is not taken for the end of the next.
    turn: int = 0


class Partitions(Day):
    """Jobs with their partitions at the workers that own these."""

    def __init__(self, policy: Policy, service_s: float = 3.0, **other: Any) -> None:
        super().__init__(policy, service_s, **other)
        self._workers = [_Worker() for _ in range(policy.min_workers)]
        # What waits while there is no worker.
        self._unowned: list[tuple[Job, int]] = []

    def _place(self, job: Job) -> None:
        self._give(job, self._rng.randrange(self._policy.partitions))

    def _give(self, job: Job, partition: int) -> None:
        if not self._workers:
            self._unowned.append((job, partition))
            return
        worker = self._workers[partition % len(self._workers)]
        heapq.heappush(worker.waiting, (job, partition))
        if worker.job is None:
            self._begin(worker)
        elif worker.job[0].lane > job.lane:
            self._park(worker)
            self._begin(worker)

    def _begin(self, worker: _Worker) -> None:
        worker.turn += 1
        if not worker.waiting:
            return
        job, partition = heapq.heappop(worker.waiting)
        self._begun(job)
        worker.job, worker.since = (job, partition), self._now
        turn = worker.turn
        self._at(self._now + job.left_s, lambda: self._end(worker, turn))

    def _end(self, worker: _Worker, turn: int) -> None:
        if worker.turn == turn:
            worker.job = None
            self._begin(worker)
            self._finished()

    def _park(self, worker: _Worker) -> None:
        if worker.job is not None:
            worker.job[0].left_s -= self._now - worker.since
            heapq.heappush(worker.waiting, worker.job)
            worker.job = None

    def _resize(self, workers: int) -> None:
        """Partitions move; what waits in them goes along."""
        jobs, self._unowned = self._unowned, []
        for worker in self._workers:
            self._park(worker)
            worker.turn += 1
            jobs += worker.waiting
        self._workers = [_Worker() for _ in range(workers)]
        for job, partition in sorted(jobs):
            self._give(job, partition)
