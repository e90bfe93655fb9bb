"""`python -m devtools.bench.worker.growth`: whether a step or a poll costs more the more jobs wait.

A step is what the engine's thread does between two calls of the UNet that could depend on the jobs that wait: it tells
its room, expired jobs are looked for, starts are chosen, and the step scheduler chooses its rows. A poll is what the
poll thread does with a record once it is decoded: the ledger, the gate, the start queue; and the end of an older job,
so that the number stays. What is compared is the time at `LARGE` waiting jobs with that at `SMALL`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from devtools.bench.worker.alone import run_alone
from worker.engine.cost import Group, Stage
from worker.engine.schedule.policy import Policy
from worker.engine.schedule.rows import Segment
from worker.engine.schedule.scheduler import StepScheduler
from worker.events.types import GenerationRequest
from worker.intake.gate import Gate
from worker.intake.ledger import Ledger
from worker.intake.start_queue import StartQueue
from worker.job import Job, Lane, Origin

SMALL, MIDDLE, LARGE = 10, 1_000, 100_000
# As many unfinished jobs as a partition may have (MAX_BUFFER).
PER_PARTITION = 256
ROOM = 4
CALLS, BATCHES = 200, 15

_TOPIC = "normal"
_BOUNDS_S = (2.0, 5.0, 10.0)


@dataclass(slots=True)
class Backlog:
    """Jobs that wait, in all that holds them, and an engine that has as many as it has room for."""

    jobs: int
    gate: Gate = field(default_factory=Gate)
    starts: StartQueue = field(default_factory=lambda: StartQueue(_BOUNDS_S, (0, 0, 0)))
    ledger: Ledger = field(default_factory=Ledger)
    scheduler: StepScheduler = field(default_factory=lambda: StepScheduler(Policy()))
    _waiting: list[Job] = field(default_factory=list)
    _next: int = 0

    def __post_init__(self) -> None:
        for partition in range(self.partitions):
            self.ledger.assign(_TOPIC, partition, 0, None)
        for _ in range(self.jobs):
            self._arrive()
        self.starts.room = (ROOM, ROOM, ROOM)
        for job in self.starts.next(0.0):
            self.scheduler.submit(job.origin, job.lane, [Segment(Group(Stage.BASE, 64, 64), 10**9)], 0.0)

    @property
    def partitions(self) -> int:
        """How many partitions hold so many jobs."""
        return -(-LARGE // PER_PARTITION)

    def step(self) -> None:
        """What a step does beside the UNet."""
        self.starts.room = (ROOM, ROOM, ROOM)
        assert not self.starts.expired(1.0)
        assert not self.starts.next(1.0)
        self.starts.upcoming(2)
        self.scheduler.room()
        self.scheduler.advance(self.scheduler.choose(1.0))

    def poll(self) -> None:
        """A job comes, and the last that came before it ends without having been started."""
        self._arrive()
        job = self._waiting.pop(-2)
        self.starts.leave(job.origin)
        self.gate.leave(job.origin)
        self.ledger.finish([job.origin])
        key = job.origin.topic, job.origin.partition
        self.ledger.unfinished([key])
        self.ledger.is_crowded(key)

    def _arrive(self) -> None:
        partition, offset = self._next % self.partitions, self._next // self.partitions
        self._next += 1
        origin = self.ledger.deliver(_TOPIC, partition, offset)
        assert origin is not None
        job = _job(origin, self._next)
        assert self.gate.enter(job)
        self.starts.add(job, alone=False)
        self._waiting.append(job)


def measure(repeats: int) -> dict[str, list[float]]:
    """Return the growth of both, and the microseconds at each number of waiting jobs."""
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        for key, values in grown((SMALL, MIDDLE, LARGE)).items():
            found.setdefault(key, []).extend(values)
    return found


def grown(sizes: Sequence[int]) -> dict[str, list[float]]:
    """Measure at each of the sizes, in turn, so that a busy moment hits all of them."""
    backlogs = [Backlog(size) for size in sizes]
    found: dict[str, list[float]] = {}
    gc.collect()
    gc.disable()  # its passes over a hundred thousand jobs of our own are not the worker's
    try:
        for name in ("step", "poll"):
            calls: list[Callable[[], None]] = [getattr(backlog, name) for backlog in backlogs]
            times = [[seconds(call) for call in calls] for _ in range(BATCHES)]
            medians = [median(column) for column in zip(*times, strict=True)]
            found[f"{name}_cost_growth"] = [medians[-1] / medians[0]]
            for size, took in zip(sizes, medians, strict=True):
                found[f"{name}_us_at_{size}"] = [1e6 * took]
    finally:
        gc.enable()
    return found


def seconds(call: Callable[[], None]) -> float:
    """The processor time of a call, of many."""
    began = time.thread_time()
    for _ in range(CALLS):
        call()
    return (time.thread_time() - began) / CALLS


def _job(origin: Origin, number: int) -> Job:
    return Job(
        request=GenerationRequest(job_id=f"job-{number}", girl_id="bench", user_id=1, prompt="a lighthouse"),
        lane=Lane.NORMAL,
        origin=origin,
        seed=1,
        loras=(),
        prompt="a lighthouse",
        negative_prompt=None,
        attempt=1,
        requested_at=0.0,
        received_at=0.0,
        expires_at=1e12,
    )


if __name__ == "__main__":
    run_alone(measure)
