"""An engine without a model, for tests of delivery: it makes a small deterministic picture after a short sleep."""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np

from worker.app import LoadedEngine
from worker.call_sizes import CallSizes
from worker.delivery.manifest import ModelInfo
from worker.errors import ErrorCode
from worker.job import EngineHooks, Failure, Job, Origin, Picture, Timing
from worker.settings import Settings

# As `worker.engine.schedule.START_AHEAD_S`.
AHEAD_S = 0.5


class StandInEngine:
    """A `worker.job.Engine` without a model; one picture at a time, most urgent first."""

    def __init__(self, hooks: EngineHooks, picture_s: float) -> None:
        self._hooks = hooks
        self._picture_s = picture_s
        # The one that is drawn, and those to follow in the time that a start may take to become durable.
        self._room = 1 + math.ceil(AHEAD_S / picture_s)
        self._changed = threading.Condition()
        self._queue: list[tuple[int, int, Job]] = []
        self._sequence = count()

    def submit(self, job: Job) -> None:
        with self._changed:
            heapq.heappush(self._queue, (job.lane, next(self._sequence), job))
            self._changed.notify()

    def cancel(self, job_id: str, code: ErrorCode, message: str) -> None:
        for job in self._take(lambda job: job.job_id == job_id):
            self._hooks.on_failed(Failure.of(job, code, message))

    def release(self, keep: Callable[[Origin], bool], *, started: bool) -> None:
        """What waits is released; the one that is being made ends by itself within milliseconds."""
        del started
        for job in self._take(lambda job: not keep(job.origin)):
            self._hooks.on_released(job)

    def tick(self) -> bool:
        self._hooks.on_room((self._room, self._room, self._room))
        with self._changed:
            if not self._queue:
                return False
            _, _, job = heapq.heappop(self._queue)
        started = time.time()
        self._hooks.on_progress(job, 0, job.request.num_inference_steps)
        time.sleep(self._picture_s)
        timing = Timing(max(0.0, started - job.requested_at), self._picture_s, self._picture_s, started)
        self._hooks.on_pixels(Picture(job, pixels(job), timing))
        return True

    def wait(self, timeout_s: float) -> None:
        with self._changed:
            if not self._queue:
                self._changed.wait(timeout_s)

    def report(self, queued: Sequence[Job]) -> None:
        """There is no device to tell about."""

    def _take(self, chosen: Callable[[Job], bool]) -> list[Job]:
        with self._changed:
            taken = [entry for entry in self._queue if chosen(entry[2])]
            self._queue = [entry for entry in self._queue if not chosen(entry[2])]
            heapq.heapify(self._queue)
        return [job for _, _, job in taken]


def pixels(job: Job) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The same noise for the same seed and size, whoever makes it."""
    shape = (job.request.height, job.request.width, 3)
    return np.random.default_rng(job.seed).integers(0, 256, shape, dtype=np.uint8)


def load(settings: Settings, picture_s: float) -> LoadedEngine:
    """What `worker.app.run` asks of a loader."""
    info = ModelInfo(
        model_id="stand-in",
        model_fingerprint="stand-in",
        refiner_id=None,
        refiner_fingerprint=None,
        versions={"numpy": np.__version__},
        device="none",
        dtype="none",
        deterministic=True,
        calls=CallSizes("none", "none", settings.slots),
    )
    facts = {"pipeline_loaded": True, "device": "stand-in"}
    return LoadedEngine(lambda hooks: StandInEngine(hooks, picture_s), info, facts)
