"""Denoised rows become pictures, one at a time, the most urgent lane first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from worker.engine.accelerator import Accelerator, Pending
from worker.engine.decode import Finish, is_converted
from worker.engine.live_jobs import LiveJob, LiveJobs
from worker.engine.memory import MemoryLadder, one_error
from worker.engine.pipeline import SdxlModel
from worker.engine.relief import MemoryRelief
from worker.engine.row import Row
from worker.engine.schedule.scheduler import StepScheduler
from worker.errors import RequestRejected
from worker.job import Origin
from worker.picture import Picture, Timing
from worker.telemetry import logs, metrics


@dataclass(frozen=True, slots=True)
class Decode:
    """A picture that the device decodes; `begun` is the time on the engine's stopwatch."""

    origin: Origin
    live: LiveJob
    row: Row
    begun: float
    pending: Pending[Finish]


class DecodeQueue:
    """Decodes the jobs of `LiveJobs.to_decode`; at most one decode is on the device at a time, `running`.

    Args:
        clock: the time of day.
        stopwatch: seconds that nobody sets.
    """

    def __init__(
        self,
        model: SdxlModel,
        scheduler: StepScheduler,
        jobs: LiveJobs,
        accelerator: Accelerator,
        ladder: MemoryLadder,
        relief: MemoryRelief,
        clock: Callable[[], float],
        stopwatch: Callable[[], float],
    ) -> None:
        self._model = model
        self._scheduler = scheduler
        self._jobs = jobs
        self._accelerator = accelerator
        self._ladder = ladder
        self._relief = relief
        self._clock = clock
        self._stopwatch = stopwatch
        self.running: Decode | None = None

    def advance(self, *, idle: bool) -> bool:
        """Begin a decode or deliver one that is done; with `idle`, wait for it. False when there is none."""
        if self.running is not None:
            return self._deliver(self.running, idle=idle)
        if not self._jobs.to_decode:
            return False
        origin, live = min(self._jobs.to_decode.items(), key=lambda item: item[1].job.lane)
        if self._scheduler.newcomer_above(live.job.lane):
            return False
        row, begun, pending = live.row, self._stopwatch(), None
        assert row is not None
        try:
            with one_error(), logs.within(logs.about(live.job)):
                pending = self._begin(row)
        except RequestRejected as error:
            self._jobs.fail(origin, error.code, error.message)
            return True
        except torch.OutOfMemoryError:
            pass
        if pending is None:
            self._relief.relieve([origin], rows=1, decoding=True)
            return True
        return self._deliver(Decode(origin, live, row, begun, pending), idle=idle)

    def _begin(self, row: Row) -> Pending[Finish]:
        # Weights that are converted for a picture must not be freed while another stream reads them.
        if self._accelerator.overlaps and not is_converted(self._model.vae(row.stage), row.latents.dtype):
            to_host = self._accelerator.to_host
            return self._accelerator.beside(lambda: self._model.begin_decode(row, to_host), "decode")
        pixels = self._model.decode(row)
        return Pending(lambda: pixels)

    def _deliver(self, decode: Decode, *, idle: bool) -> bool:
        """Deliver a picture once the device has finished it; meanwhile, the steps go on."""
        if not decode.pending.is_done():
            if not idle:
                self.running = decode
                return True
            decode.pending.wait()
        self.running = None
        if self._jobs.to_decode.get(decode.origin) is not decode.live:
            return True  # cancelled, expired or released meanwhile
        try:
            pixels = decode.pending.value()
        except RequestRejected as error:
            self._jobs.fail(decode.origin, error.code, error.message)
            return True
        seconds = decode.pending.seconds(self._stopwatch() - decode.begun)
        latents = decode.row.latents
        self._scheduler.cost.observe_decode(latents.shape[-2], latents.shape[-1], seconds)
        metrics.PHASE.labels("decode").observe(seconds)
        picture = self._picture(decode, pixels, seconds)
        metrics.GPU_SECONDS.labels("useful").inc(picture.timing.gpu)
        self._jobs.complete(picture)
        return True

    def _picture(self, decode: Decode, pixels: npt.NDArray[np.uint8], seconds: float) -> Picture:
        job, row = decode.live.job, decode.row
        timing = Timing(
            queue=max(0.0, row.started_at - job.requested_at),
            generation=max(0.0, self._clock() - row.started_at),
            gpu=row.gpu_seconds + seconds,
            started_at=row.started_at,
            encode_text=row.text_seconds,
            decode=seconds,
        )
        return Picture(
            job,
            pixels,
            timing,
            self._model.lora_cache.fingerprints(job.loras),
            reproducible=row.reproducible and not self._ladder.decodes_differ,
            compiled=decode.live.plan.compiled,
        )
