"""The engine's tick: take what arrived, choose rows, run one step, decode one picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch

from worker.call_sizes import CallSizes
from worker.engine import gauges
from worker.engine.accelerator import Accelerator, accelerator_of
from worker.engine.ahead import Ahead
from worker.engine.compiled.fast_path import FastPath
from worker.engine.decode_queue import DecodeQueue
from worker.engine.early_ends import EarlyEnds
from worker.engine.inbox import Inbox
from worker.engine.live_jobs import LiveJobs
from worker.engine.lora.arrivals import Arrivals
from worker.engine.memory import MemoryLadder
from worker.engine.merging import SetMerging
from worker.engine.pipeline import SdxlModel
from worker.engine.planning import Planner
from worker.engine.preparation import Preparation
from worker.engine.relief import MemoryRelief
from worker.engine.schedule.scheduler import StepScheduler
from worker.engine.stepping import Stepper
from worker.engine.unet_step import UNetStep
from worker.engine_interface import EngineHooks, Room
from worker.errors import ErrorCode, RequestRejected
from worker.failure import Failure
from worker.job import Job, Lane, Origin
from worker.telemetry import metrics


class StepEngine:
    """Owns the device and implements `engine_interface.Engine`, one UNet step at a time.

    Args:
        clock: the time of day, by which deadlines count.
        stopwatch: seconds that nobody sets, for durations; `clock` where it is None.
        calls: the size that every UNet call is padded to, by job; None: calls are not padded.
        fast: the compiled steps; None: there are none. It needs `calls`.
        accelerator: of the model's device; None: the usual one.
        checkpoints: release started jobs with a checkpoint where one can be made.
    """

    def __init__(
        self,
        model: SdxlModel,
        scheduler: StepScheduler,
        hooks: EngineHooks,
        clock: Callable[[], float],
        *,
        calls: CallSizes | None,
        fast: FastPath | None = None,
        accelerator: Accelerator | None = None,
        checkpoints: bool = False,
        stopwatch: Callable[[], float] | None = None,
    ) -> None:
        stopwatch = clock if stopwatch is None else stopwatch
        fast = FastPath() if fast is None else fast
        fast.times.tell(scheduler.cost)
        accelerator = accelerator_of(model.device) if accelerator is None else accelerator
        loras = model.lora_cache
        self._model = model
        self._scheduler = scheduler
        self._hooks = hooks
        self._clock = clock
        self._stopwatch = stopwatch
        self._inbox = Inbox()
        self._ahead = Ahead(model, accelerator, stopwatch)
        self._ladder = MemoryLadder(model, scheduler.sizes.rows_max)
        self._planner = Planner(model, scheduler, fast, calls, clock)
        self._jobs = LiveJobs(scheduler, self._ahead, loras, hooks)
        self._arrivals = Arrivals(
            loras,
            apart=hooks.apart,
            post=self._inbox.post,
            accept=self._accept,
            refuse=self._refuse,
        )
        self._early_ends = EarlyEnds(self._jobs, self._arrivals, loras, hooks, checkpoints=checkpoints)
        unet_step = UNetStep(model, accelerator, fast, self._ladder, self._ahead, stopwatch)
        self._relief = MemoryRelief(self._ladder, scheduler, unet_step, self._ahead, self._jobs)
        self._merging = SetMerging(model, scheduler, self._ahead, self._relief, stopwatch)
        self._preparation = Preparation(model, self._jobs, self._ahead, stopwatch)
        self._stepper = Stepper(scheduler, self._jobs, self._preparation, unet_step, self._ladder, self._relief, hooks)
        self._decodes = DecodeQueue(
            model, scheduler, self._jobs, accelerator, self._ladder, self._relief, clock, stopwatch
        )
        self._preemptions_told = 0

    def submit(self, job: Job) -> None:
        """Hand over a job; it starts at the next step if its lane allows."""
        self._inbox.post(lambda: self._arrivals.add(job) if job.loras else self._accept(job))

    def expect(self, jobs: Sequence[Job]) -> None:
        """Jobs that will be handed over next, in this order: what they need can be read ahead."""
        self._inbox.post(lambda: self._arrivals.ahead(jobs))

    def cancel(self, job_id: str, code: ErrorCode, message: str) -> None:
        """End a job before its next step, wherever it is; an unknown id is ignored."""
        self._inbox.post(lambda: self._early_ends.cancel(job_id, code, message))

    def release(self, keep: Callable[[Origin], bool], *, started: bool) -> None:
        """Release jobs whose origin is not to be kept: those that have not started, or with `started` all of them."""
        self._inbox.post(lambda: self._early_ends.release(keep, started=started))

    def wait(self, timeout_s: float) -> None:
        """Sleep until something is posted, at most `timeout_s`."""
        self._inbox.wait(timeout_s)

    def tick(self) -> bool:
        """One step and at most one decode; False when there was nothing to do."""
        self._inbox.run()
        now = self._clock()
        self._early_ends.expire(now)
        with torch.inference_mode():
            self._scheduler.lanes.merged = self._merging.merged
            batch = cast("tuple[Origin, ...]", self._scheduler.choose(self._stopwatch(), self._merging.is_ready))
            held_up = cast("Origin | None", self._scheduler.held_up)
            self._hooks.on_room(self._room())
            if held_up is not None and not self._merging.merge_for(held_up, self._stepper.last_s):
                batch = ()
            if batch:
                self._stepper.step(batch, now)
            if held_up is None:
                self._merging.merge_ahead(self._stepper.last_s)
            if batch:
                self._preparation.encode_ahead()
            self._inbox.run()
            decoded = self._decodes.advance(idle=not batch and held_up is None)
        if not batch and not decoded and held_up is None:
            self._rest()
            return False
        return True

    def report(self, queued: Sequence[Job]) -> None:
        """Set the gauges that are read, not counted, and pass on what the scheduler has counted."""
        preemptions = self._scheduler.counts.preemptions
        metrics.PREEMPTIONS.inc(preemptions - self._preemptions_told)
        self._preemptions_told = preemptions
        metrics.LORAS.set(self._model.lora_cache.loaded)
        gauges.set_memory(self._model.device, self._ladder.rung)
        not_begun = self._jobs.not_begun() + self._arrivals.jobs
        gauges.set_queue(self._scheduler.depth(), queued, not_begun, self._clock())

    def _accept(self, job: Job) -> None:
        """Plan a job, whose LoRAs are pinned."""
        try:
            plan = self._planner.plan(job)
        except RequestRejected as error:
            self._model.lora_cache.release(job.loras)
            self._refuse(job, error)
            return
        self._jobs.add(job, plan)
        # It has waited since it was received: its start was only recorded when its turn was near.
        waited = max(0.0, self._clock() - job.received_at)
        self._scheduler.submit(job.origin, job.lane, plan.left, self._stopwatch() - waited)

    def _refuse(self, job: Job, error: RequestRejected) -> None:
        self._hooks.on_failed(Failure.of(job, error.code, error.message))

    def _rest(self) -> None:
        """Nothing to do: the moment to check the invariants and to come down the memory ladder."""
        self._scheduler.check_invariants()
        self._ahead.join()
        self._merging.rest()
        self._relief.reset()

    def _room(self) -> Room:
        """The rows that the engine has a use for; a job counts until its picture is there."""
        decoding = self._jobs.lanes_to_decode()
        urgent, high, normal = (
            rows + sum(other <= lane for other in decoding)
            for lane, rows in zip(Lane, self._scheduler.room(), strict=True)
        )
        return urgent, high, normal
