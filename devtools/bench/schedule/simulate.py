"""Run one policy on one trace: the real engine in virtual time, which only its own work advances."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from devtools.bench.jobs import call_sizes, job_of
from devtools.bench.schedule.model import ChargedModel, Prices, Work
from devtools.bench.schedule.traffic import Arrival
from worker.engine.loop import StepEngine
from worker.engine.schedule.rows import State
from worker.engine.schedule.scheduler import StepScheduler
from worker.engine_interface import EngineHooks
from worker.events.types import GenerationRequest
from worker.failure import Failure
from worker.job import Job, Lane, Origin
from worker.picture import Picture

STEPS = 30
SIDE_PX = 64
PROMPT = "a lighthouse at dusk"


@dataclass(slots=True)
class Visit:
    """The times of one job, in seconds from the start of the trace; `started` is when its first UNet call began."""

    name: str
    lane: Lane
    arrived: float
    started: float | None = None
    ended: float | None = None


@dataclass(slots=True)
class Tally:
    """Counts of steps and rows; a step is "busy" if at least as many jobs were present as a call has rows."""

    steps: int = 0
    row_steps: int = 0
    busy_steps: int = 0
    busy_row_steps: int = 0


@dataclass(slots=True)
class Step:
    """One UNet call: the time at which it began, and its jobs."""

    at: float
    names: tuple[str, ...]


class Simulation:
    """Drives an `Engine` over a trace.

    Args:
        base: the toy pipeline.
        scheduler: the policy.
        prices: seconds of each kind of work on the virtual clock.
        arrivals: the jobs, in order of time.
        slots: rows of a call.
        real: run UNet and VAE, instead of stand-ins with the same prices on the virtual clock.
    """

    def __init__(
        self,
        base: Any,
        scheduler: StepScheduler,
        prices: Prices,
        arrivals: Sequence[Arrival],
        *,
        slots: int,
        real: bool,
    ) -> None:
        self._scheduler = scheduler
        self._prices = prices
        self._coming = deque((arrival.at, bench_job(index, arrival)) for index, arrival in enumerate(arrivals))
        self._inside: dict[Origin, Visit] = {}
        self._now = 0.0
        self.slots = slots
        self.real_seconds = 0.0
        self.visits: list[Visit] = []
        self.steps: list[Step] = []
        self.tally = Tally()
        hooks = EngineHooks(on_pixels=self._ended, on_failed=self._ended)
        model = ChargedModel(base, self._charge, real=real)
        self._engine = StepEngine(model, scheduler, hooks, lambda: self._now, calls=call_sizes(slots))

    def tick(self) -> bool:
        """Run one tick of the engine, or advance the clock to the next arrival; return False when all jobs are done."""
        self._deliver()
        began = time.perf_counter()
        worked = self._engine.tick()
        if worked:
            self.real_seconds += time.perf_counter() - began
            return True
        if not self._coming:
            return False
        self._now = max(self._now, self._coming[0][0])
        return True

    def run(self) -> Simulation:
        """Run the whole trace."""
        while self.tick():
            pass
        return self

    @property
    def seconds(self) -> float:
        """Return the virtual time."""
        return self._now

    def _deliver(self) -> None:
        while self._coming and self._coming[0][0] <= self._now:
            at, job = self._coming.popleft()
            visit = Visit(job.job_id, job.lane, at)
            self._inside[job.origin] = visit
            self.visits.append(visit)
            self._engine.submit(job)

    def _charge(self, work: Work) -> None:
        if work == "step":
            self._note_step()
        self._now += self._prices.of(work)
        self._deliver()

    def _note_step(self) -> None:
        scheduler = self._scheduler
        batch = [
            visit
            for origin, visit in self._inside.items()
            if origin in scheduler and scheduler.state(origin) is State.ACTIVE
        ]
        for visit in batch:
            if visit.started is None:
                visit.started = self._now
        self.steps.append(Step(self._now, tuple(visit.name for visit in batch)))
        self.tally.steps += 1
        self.tally.row_steps += len(batch)
        if len(scheduler) >= self.slots:
            self.tally.busy_steps += 1
            self.tally.busy_row_steps += len(batch)

    def _ended(self, result: Picture | Failure) -> None:
        if isinstance(result, Failure):
            raise AssertionError(f"{result.request.job_id}: {result.message}")
        self._inside.pop(result.job.origin).ended = self._now


def side_by_side(simulations: Sequence[Simulation]) -> None:
    """Run all simulations, one tick of each in turn, so that changes in the machine's load affect all of them alike."""
    running = list(simulations)
    while running:
        running = [simulation for simulation in running if simulation.tick()]


def bench_job(index: int, arrival: Arrival) -> Job:
    name = f"{arrival.lane.label}-{index}"
    request = GenerationRequest(
        job_id=name,
        girl_id="bench",
        user_id=0,
        prompt=PROMPT,
        num_inference_steps=STEPS,
        width=SIDE_PX,
        height=SIDE_PX,
    )
    return job_of(request, index, seed=index, lane=arrival.lane, at=arrival.at)
