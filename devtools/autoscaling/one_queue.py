"""A fleet behind a dispatcher, whose own policy decides which worker gets what, and when. Pure.

Each way between dispatcher and worker, a record there and a report back, takes a random time, as in
`devtools.bench.fleet.simulate`. What KEDA counts is what the dispatcher has not passed on and what workers have not
committed. A worker that is removed finishes its picture; what waits there goes to another one with its partitions.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from devtools.autoscaling.day import Day, Job
from devtools.autoscaling.policy import Policy
from devtools.bench.fleet.simulate import WAY_S
from worker.dispatch.policy import Backlog, Request, Roster, Worker
from worker.job import Lane


@dataclass(slots=True)
class _Gpu:
    waiting: list[Job] = field(default_factory=list)
    job: Job | None = None
    since: float = 0.0
    # As with partitions: the end of a parked job is not the end of the next.
    turn: int = 0


class OneQueue(Day):
    """Jobs in the dispatcher, on their way, and at the workers."""

    def __init__(self, policy: Policy, service_s: float = 3.0, **other: Any) -> None:
        super().__init__(policy, service_s, **other)
        # Not the arrivals' numbers, which stay the same whatever the fleet does.
        self._random = random.Random(0)
        self._names = count()
        self._jobs: dict[int, Job] = {}
        self._backlog = Backlog()
        self._roster = Roster()
        self._gpus: dict[str, _Gpu] = {}
        self._resize(policy.min_workers)

    def _place(self, job: Job) -> None:
        self._jobs[job.number] = job
        self._backlog.add(_request(job))
        self._dispatch()

    def _dispatch(self) -> None:
        for choice in self._backlog.choose(self._roster, self._now):
            job, name = self._jobs.pop(int(str(choice.request.key))), choice.worker.name
            self._later(partial(self._arrive, job, name))

    def _later(self, event: Callable[[], None]) -> None:
        self._at(self._now + self._random.uniform(*WAY_S), event)

    def _arrive(self, job: Job, name: str) -> None:
        if name in self._gpus:
            self._give(job, name)
        else:
            self._inherit([job])

    def _inherit(self, jobs: list[Job]) -> None:
        """What was sent to a worker that has gone is another one's, whose next report says so."""
        if not self._gpus:
            for job in jobs:
                self._place(job)
            return
        name = self._random.choice(list(self._gpus))
        for job in sorted(jobs):
            worker = self._roster[name]
            worker.take(_request(job))
            self._roster.put(worker)
            self._give(job, name)

    def _give(self, job: Job, name: str) -> None:
        gpu = self._gpus[name]
        heapq.heappush(gpu.waiting, job)
        if gpu.job is not None and gpu.job.lane > job.lane:
            gpu.job.left_s -= self._now - gpu.since
            heapq.heappush(gpu.waiting, gpu.job)
            gpu.job = None
        if gpu.job is None:
            self._begin(gpu, name)

    def _begin(self, gpu: _Gpu, name: str) -> None:
        gpu.turn += 1
        if not gpu.waiting:
            return
        gpu.job, gpu.since = heapq.heappop(gpu.waiting), self._now
        self._begun(gpu.job)
        turn = gpu.turn
        self._at(self._now + gpu.job.left_s, lambda: self._end(gpu, name, turn))

    def _end(self, gpu: _Gpu, name: str, turn: int) -> None:
        if gpu.turn != turn or gpu.job is None:
            return
        lane, gpu.job = Lane(gpu.job.lane), None
        self._begin(gpu, name)
        self._finished()
        self._later(lambda: self._report(name, lane))

    def _report(self, name: str, lane: Lane) -> None:
        if name in self._roster:
            worker = self._roster[name]
            worker.unfinished[lane] -= 1
            worker.seconds[lane] -= self._service_s
            self._roster.put(worker)
            self._dispatch()

    def _resize(self, workers: int) -> None:
        """Which one goes is chance: a busy pod is as likely to be removed as an idle one."""
        while len(self._gpus) > workers:
            name = self._random.choice(list(self._gpus))
            gpu = self._gpus.pop(name)
            self._roster.remove(name)
            jobs, gpu.waiting = gpu.waiting, []
            self._inherit(jobs)
        while len(self._gpus) < workers:
            name = str(next(self._names))
            self._gpus[name] = _Gpu()
            self._roster.put(Worker(name, picture_s=self._service_s))
        self._dispatch()


def _request(job: Job) -> Request:
    return Request(job.number, Lane(job.lane), job.arrived)
