"""A stand-in for a GPU: it draws in steps, stops for a higher lane between two of them, and uses no processor time.

What it has drawn is told by the clock, as on a device that works beside its host: a busy host does not slow it down.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from worker.app import LoadedEngine
from worker.call_sizes import CallSizes
from worker.delivery.manifest import ModelInfo
from worker.dispatch.work import lora_set
from worker.engine_interface import EngineHooks
from worker.errors import ErrorCode
from worker.failure import Failure
from worker.job import Job, Origin
from worker.picture import Picture, Timing

STEPS = 30
# As `worker.engine.schedule.room.START_AHEAD_S`, at a tenth: jobs in the engine for the time that a start takes.
AHEAD_S = 0.1

# Told when a job is drawn for the first time: the job, the time, and whether that changed the LoRAs.
OnBegun = Callable[[Job, float, bool], None]


@dataclass(slots=True)
class _Drawing:
    job: Job
    left_s: float
    began_at: float | None = None


class SteppedDevice:
    """A `worker.engine_interface.Engine` that draws one picture at a time."""

    def __init__(self, hooks: EngineHooks, picture_s: float, on_begun: OnBegun) -> None:
        self._hooks, self._picture_s, self._on_begun = hooks, picture_s, on_begun
        self._room = 1 + math.ceil(AHEAD_S / picture_s)
        self._changed = threading.Condition()
        self._queue: list[tuple[int, int, _Drawing]] = []
        self._number = count()
        self._merged = ""
        self._pixels: dict[tuple[int, int], np.ndarray[Any, np.dtype[np.uint8]]] = {}

    def submit(self, job: Job) -> None:
        with self._changed:
            heapq.heappush(self._queue, (job.lane, next(self._number), _Drawing(job, self._picture_s)))
            self._changed.notify()

    def cancel(self, job_id: str, code: ErrorCode, message: str) -> None:
        for job in self._take(lambda drawing: drawing.job.job_id == job_id):
            self._hooks.on_failed(Failure.of(job, code, message))

    def release(self, keep: Callable[[Origin], bool], *, started: bool) -> None:
        for job in self._take(lambda one: not keep(one.job.origin) and (started or one.began_at is None)):
            self._hooks.on_released(job)

    def tick(self) -> bool:
        self._hooks.on_room((self._room, self._room, self._room))
        with self._changed:
            if not self._queue:
                return False
            entry = self._queue[0]
        drawing, before = entry[2], time.monotonic()
        if drawing.began_at is None:
            drawing.began_at = time.time()
            self._begin(drawing.job, drawing.began_at)
        time.sleep(min(self._picture_s / STEPS, drawing.left_s))
        drawing.left_s -= time.monotonic() - before
        if drawing.left_s <= 0:
            self._finish(entry)
        return True

    def _begin(self, job: Job, now: float) -> None:
        loras = lora_set(job)
        changed = bool(loras) and loras != self._merged
        self._merged = loras or self._merged
        self._hooks.on_progress(job, 0, job.num_inference_steps)
        self._on_begun(job, now, changed)

    def _finish(self, entry: tuple[int, int, _Drawing]) -> None:
        with self._changed:
            if entry not in self._queue:
                return  # released or cancelled during the last step
            self._queue.remove(entry)
            heapq.heapify(self._queue)
        drawing = entry[2]
        began_at = drawing.began_at or time.time()
        timing = Timing(0.0, time.time() - began_at, self._picture_s, began_at)
        fingerprints = {name: "stand-in" for name, _ in drawing.job.loras}
        self._hooks.on_pixels(Picture(drawing.job, self._picture(drawing.job), timing, fingerprints))

    def _picture(self, job: Job) -> np.ndarray[Any, np.dtype[np.uint8]]:
        size = job.request.height, job.request.width
        if size not in self._pixels:
            self._pixels[size] = slope(*size)
        return self._pixels[size]

    def wait(self, timeout_s: float) -> None:
        with self._changed:
            if not self._queue:
                self._changed.wait(timeout_s)

    def report(self, queued: Sequence[Job]) -> None:
        """There are no gauges of a device."""

    def expect(self, jobs: Sequence[Job]) -> None:
        """There are no files to read ahead."""

    def _take(self, chosen: Callable[[_Drawing], bool]) -> list[Job]:
        with self._changed:
            taken = [entry for entry in self._queue if chosen(entry[2])]
            self._queue = [entry for entry in self._queue if entry not in taken]
            heapq.heapify(self._queue)
        return [entry[2].job for entry in taken]


def slope(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """RGB pixels that get brighter from corner to corner: a worker refuses a picture of one colour."""
    rows, columns = np.indices((height, width))
    return np.repeat(((rows + columns) % 256).astype(np.uint8)[..., None], 3, axis=2)


def loaded(picture_s: float, on_begun: OnBegun) -> LoadedEngine:
    """What `worker.app.build` asks of a loader."""
    info = ModelInfo(
        model_id="stand-in",
        model_fingerprint="stand-in",
        refiner_id=None,
        refiner_fingerprint=None,
        versions={},
        device="none",
        dtype="none",
        deterministic=True,
        calls=CallSizes("none", "none"),
    )
    return LoadedEngine(lambda hooks: SteppedDevice(hooks, picture_s, on_begun), info, {})
