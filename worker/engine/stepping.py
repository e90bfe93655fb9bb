"""Step the batch that was chosen, and account for what the step took and how far each job has come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from worker.engine.live_jobs import LiveJobs
from worker.engine.memory import MemoryLadder, one_error
from worker.engine.preparation import JobEnded, Preparation
from worker.engine.relief import MemoryRelief
from worker.engine.schedule.scheduler import StepScheduler
from worker.engine.unet_step import UNetStep
from worker.engine_interface import EngineHooks
from worker.job import Origin
from worker.telemetry import metrics

# Progress is told at the start and after each of these parts of the steps.
_PROGRESS_PARTS = 4

# Until a step is measured.
_FIRST_STEP_S = 0.05

# Looked up once: a step has no time for it.
_STEP_SECONDS = metrics.PHASE.labels("step")


class Stepper:
    """Steps batches; `last_s` is how long the last step took, in seconds."""

    def __init__(
        self,
        scheduler: StepScheduler,
        jobs: LiveJobs,
        preparation: Preparation,
        unet_step: UNetStep,
        ladder: MemoryLadder,
        relief: MemoryRelief,
        hooks: EngineHooks,
    ) -> None:
        self._scheduler = scheduler
        self._jobs = jobs
        self._preparation = preparation
        self._unet_step = unet_step
        self._ladder = ladder
        self._relief = relief
        self._hooks = hooks
        self.last_s = _FIRST_STEP_S

    def step(self, batch: Sequence[Origin], now: float) -> None:
        """One UNet step of `batch`; an allocation that fails leaves every row as it was."""
        seconds, group = None, self._scheduler.group(batch[0])
        try:
            with one_error():
                rows = [self._preparation.row(origin, now) for origin in batch]
                seconds = self._unet_step.run(rows, group)
        except JobEnded:
            return
        except torch.OutOfMemoryError:
            pass
        if seconds is None:
            self._relief.relieve(batch, rows=self._scheduler.sizes.rows_at_most(group), decoding=False)
            return
        self.last_s = seconds
        self._scheduler.observe(batch, seconds)
        for row in rows:
            row.gpu_seconds += seconds / len(rows)
            row.reproducible &= not self._ladder.steps_differ(group)
        self._jobs.on_denoised(cast("tuple[Origin, ...]", self._scheduler.advance(batch)))
        self._tell_progress(batch)
        _count(len(rows), self._scheduler.sizes.rows_at_most(group), seconds)

    def _tell_progress(self, batch: Sequence[Origin]) -> None:
        for origin in batch:
            live = self._jobs.stepping.get(origin)
            if live is None or live.row is None:
                continue
            part = live.row.steps_done * _PROGRESS_PARTS // live.plan.steps
            if part > live.told:
                live.told = part
                self._hooks.on_progress(live.job, live.row.steps_done, live.plan.steps)


def _count(rows: int, most: int, seconds: float) -> None:
    _STEP_SECONDS.observe(seconds)
    metrics.STEPS.inc()
    metrics.ROW_STEPS.inc(rows)
    metrics.FREE_SLOTS.inc(most - rows)
