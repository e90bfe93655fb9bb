"""An engine without a model, for tests of delivery: it makes a small deterministic picture after a short sleep."""

from __future__ import annotations

import heapq
import math
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from worker.app import LoadedEngine
from worker.call_sizes import CallSizes
from worker.delivery.manifest import ModelInfo
from worker.engine_interface import EngineHooks
from worker.errors import ErrorCode
from worker.failure import Failure
from worker.job import Job, Origin
from worker.picture import Picture, Timing
from worker.settings import Settings

# As `worker.engine.schedule.room.START_AHEAD_S`.
AHEAD_S = 0.5


# A long picture is made in slices of this length, between which it can be cancelled and released.
SLICE_S = 0.1
LONG_EVERY, LONG_S = 50, (0.5, 3.0)


def long_picture_s(job_id: str) -> float | None:
    """How long the picture of this job takes, if it is one of the 2 % that are long."""
    draw = zlib.crc32(job_id.encode())
    if draw % LONG_EVERY:
        return None
    least, most = LONG_S
    return least + (most - least) * (draw // LONG_EVERY % 100) / 99


@dataclass(slots=True)
class _Drawing:
    """The job whose picture is made, since when (Unix time), and the seconds that it takes and has left."""

    job: Job
    started: float
    takes_s: float
    left_s: float


class StandInEngine:
    """A `worker.engine_interface.Engine` without a model; one picture at a time, most urgent first.

    `long_pictures`: those of some jobs take 0.5-3 s.
    """

    def __init__(
        self,
        hooks: EngineHooks,
        picture_s: float,
        *,
        long_pictures: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._hooks = hooks
        self._sleep = sleep
        self._picture_s = picture_s
        self._long_pictures = long_pictures
        # The one that is drawn, and those to follow in the time that a start may take to become durable.
        self._room = 1 + math.ceil(AHEAD_S / picture_s)
        self._changed = threading.Condition()
        self._queue: list[tuple[int, int, Job]] = []
        self._drawing: _Drawing | None = None
        self._sequence = count()

    def submit(self, job: Job) -> None:
        with self._changed:
            heapq.heappush(self._queue, (job.lane, next(self._sequence), job))
            self._changed.notify()

    def cancel(self, job_id: str, code: ErrorCode, message: str) -> None:
        for job in self._take(lambda job: job.job_id == job_id, started=True):
            self._hooks.on_failed(Failure.of(job, code, message))

    def release(self, keep: Callable[[Origin], bool], *, started: bool) -> None:
        for job in self._take(lambda job: not keep(job.origin), started=started):
            self._hooks.on_released(job)

    def tick(self) -> bool:
        self._hooks.on_room((self._room, self._room, self._room))
        with self._changed:
            began = self._drawing is None
            if self._drawing is None and self._queue:
                self._drawing = self._begin(heapq.heappop(self._queue)[2])
            drawing = self._drawing
        if drawing is None:
            return False
        if began:
            self._hooks.on_progress(drawing.job, 0, drawing.job.request.num_inference_steps)
        slice_s = min(SLICE_S, drawing.left_s)
        self._sleep(slice_s)
        drawing.left_s -= slice_s
        if drawing.left_s <= 0:
            self._finish(drawing)
        return True

    def _begin(self, job: Job) -> _Drawing:
        takes_s = (self._long_pictures and long_picture_s(job.job_id)) or self._picture_s
        return _Drawing(job, time.time(), takes_s, takes_s)

    def _finish(self, drawing: _Drawing) -> None:
        with self._changed:
            if self._drawing is not drawing:
                return  # released or cancelled during the last slice
            self._drawing = None
        job, takes_s, started = drawing.job, drawing.takes_s, drawing.started
        timing = Timing(max(0.0, started - job.requested_at), takes_s, takes_s, started)
        self._hooks.on_pixels(Picture(job, pixels(job), timing))

    def wait(self, timeout_s: float) -> None:
        with self._changed:
            if not self._queue and self._drawing is None:
                self._changed.wait(timeout_s)

    def report(self, queued: Sequence[Job]) -> None:
        """There is no device to tell about."""

    def expect(self, jobs: Sequence[Job]) -> None:
        """There are no files to read ahead."""

    def _take(self, chosen: Callable[[Job], bool], *, started: bool) -> list[Job]:
        with self._changed:
            taken = [entry[2] for entry in self._queue if chosen(entry[2])]
            self._queue = [entry for entry in self._queue if not chosen(entry[2])]
            heapq.heapify(self._queue)
            if started and self._drawing is not None and chosen(self._drawing.job):
                taken.append(self._drawing.job)
                self._drawing = None
        return taken


def pixels(job: Job) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The same noise for the same seed and size, whoever makes it."""
    shape = (job.request.height, job.request.width, 3)
    return np.random.default_rng(job.seed).integers(0, 256, shape, dtype=np.uint8)


def load(settings: Settings, picture_s: float, *, long_pictures: bool = False) -> LoadedEngine:
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
    return LoadedEngine(lambda hooks: StandInEngine(hooks, picture_s, long_pictures=long_pictures), info, facts)
