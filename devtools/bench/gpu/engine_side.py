"""The worker's side: its engine as `worker.app` builds it from settings, driven by one thread as in production."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, cast

from devtools.bench.gpu.cases import Case, job_for
from worker import app
from worker.delivery.manifest import ModelInfo
from worker.engine.pipeline import SdxlModel
from worker.engine_interface import EngineHooks
from worker.failure import Failure
from worker.job import Job, Lane
from worker.picture import Picture
from worker.settings import Settings
from worker.telemetry import metrics

# While a job waits for something that is not the device, such as a file; the engine wakes up by itself before.
_IDLE_S = 0.05
# Job ids, and the offsets in their origins, are unique in the process.
_indices = count()


class NotDrawn(RuntimeError):
    """The engine failed a job; the message is the job's."""


@dataclass(slots=True)
class Ticks:
    """Seconds of the engine's ticks that ran a step: those that also decoded a picture stand apart."""

    steps: list[float] = field(default_factory=list)
    with_decode: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job that is submitted once `after_steps` UNet calls have been made."""

    after_steps: int
    case: Case
    lane: Lane = Lane.NORMAL


class EngineSide:
    """A loaded model and an engine around it. Everything belongs to one thread.

    Args:
        settings: as the worker reads them; the model, its precision and how it is run come from them alone.

    `last` is the picture that was drawn last.
    """

    def __init__(self, settings: Settings) -> None:
        began = time.perf_counter()
        loaded = app.load_engine(settings)
        self._ended: deque[Picture | Failure] = deque()
        self.last: Picture | None = None
        hooks = EngineHooks(on_pixels=self._ended.append, on_failed=self._ended.append)
        self._engine: Any = loaded.make_engine(hooks)
        self.load_seconds = time.perf_counter() - began
        self.info: ModelInfo = loaded.info
        # Only to count operations: nothing here is drawn past the engine.
        self.model: SdxlModel = cast("Any", self._engine)._model

    def job(self, case: Case, prompt: str, lane: Lane = Lane.NORMAL) -> Job:
        """Return a job with a number of its own that arrives now."""
        return job_for(case, prompt, next(_indices), lane=lane, at=time.time())

    def draw(self, case: Case, prompt: str, ticks: Ticks | None = None, *, padded: bool = True) -> float:
        """Draw one picture alone; return the seconds from its arrival to its pixels on the host.

        Args:
            padded: False: the picture's calls have room for it alone, as if that were the size of a call.

        Raises:
            NotDrawn: the job failed.
        """
        began = time.perf_counter()
        job = self.job(case, prompt)
        self._engine.submit(job if padded else replace(job, call_samples=2 if job.guided else 1))
        self._run(1, ticks)
        return time.perf_counter() - began

    def play(self, arrivals: Sequence[Arrival], prompts: Sequence[str], ticks: Ticks) -> float:
        """Draw jobs that arrive while others are drawn; return the seconds until the last picture.

        Raises:
            NotDrawn: a job failed.
        """
        waiting = deque(sorted(zip(arrivals, prompts, strict=True), key=lambda pair: pair[0].after_steps))
        began, first, running = time.perf_counter(), unet_calls(), 0
        while waiting or running:
            # Where nothing runs, no step will come that the next one could wait for.
            while waiting and (not running or unet_calls() - first >= waiting[0][0].after_steps):
                arrival, prompt = waiting.popleft()
                self._engine.submit(self.job(arrival.case, prompt, arrival.lane))
                running += 1
            running -= self._tick(ticks)
        return time.perf_counter() - began

    def preemptions(self) -> float:
        """Return how often a row of any engine in this process was preempted."""
        self._engine.report([])
        return _value(metrics.PREEMPTIONS)

    def _run(self, jobs: int, ticks: Ticks | None) -> None:
        while jobs:
            jobs -= self._tick(ticks)

    def _tick(self, ticks: Ticks | None) -> int:
        """Run one tick, and return how many jobs ended in it."""
        calls, began = unet_calls(), time.perf_counter()
        worked = self._engine.tick()
        seconds = time.perf_counter() - began
        ended = len(self._ended)
        while self._ended:
            result = self._ended.popleft()
            if isinstance(result, Failure):
                self._clear()
                raise NotDrawn(result.message)
            self.last = result
        if ticks is not None and unet_calls() > calls:
            (ticks.with_decode if ended else ticks.steps).append(seconds)
        if not worked and not ended:
            self._engine.wait(_IDLE_S)
        return ended

    def _clear(self) -> None:
        """Take every job out of the engine, so that the next one is alone again."""
        self._engine.release(lambda _origin: False, started=True)
        self._engine.tick()
        self._ended.clear()


def unet_calls() -> float:
    """Return the UNet calls of all engines in this process so far."""
    return _value(metrics.STEPS)


def _value(counter: Any) -> float:
    value: float = next(sample.value for sample in counter.collect()[0].samples if sample.name.endswith("_total"))
    return value
