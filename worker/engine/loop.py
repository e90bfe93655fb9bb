"""The engine's tick: take what arrived, choose rows, run one step, decode one picture."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import cast

import structlog
import torch

from worker.call_sizes import CallSizes
from worker.engine import gauges
from worker.engine.accelerator import Accelerator, Pending, accelerator_of
from worker.engine.ahead import Ahead
from worker.engine.checkpoint import Checkpoint, dump
from worker.engine.compiled.fast_path import FastPath
from worker.engine.cost import Group, Stage
from worker.engine.decode import Finish, is_converted
from worker.engine.denoise import Denoiser
from worker.engine.lora.arrivals import Arrivals
from worker.engine.lora.exchange import Exchange, LoraSet
from worker.engine.memory import MemoryLadder, one_error
from worker.engine.pipeline import SdxlModel
from worker.engine.row import Row
from worker.engine.schedule import QueuedRow, Segment, StepScheduler
from worker.errors import ErrorCode, RequestRejected
from worker.job import EngineHooks, Failure, Job, Lane, Origin, Picture, Room, Timing
from worker.telemetry import logs, metrics

# Progress is told at the start and after each of these parts of the steps.
_PROGRESS_PARTS = 4

# What a set is merged for between two steps, as parts of a step: while a row waits for it, and ahead.
_MERGE_SHARE = 0.4
_MERGE_AHEAD_SHARE = 0.2
# Until one is measured.
_FIRST_STEP_S = 0.05

_log = structlog.get_logger()

# Looked up once: a step has no time for it.
_STEP_SECONDS = metrics.PHASE.labels("step")


@dataclass(slots=True)
class _Live:
    """A job inside the engine; `row` appears with its first step here, after the `checkpoint` if there is one.

    Its LoRAs are pinned as long as it is here, and the row's acquired as long as there is one. `compiled`: its steps
    run on the fast path.
    """

    job: Job
    steps: int
    compiled: bool = False
    checkpoint: Checkpoint | None = None
    row: Row | None = None
    told: int = -1


@dataclass(frozen=True, slots=True)
class _Decoding:
    """A picture that the device decodes; `begun` is the time on the engine's stopwatch."""

    origin: Origin
    live: _Live
    begun: float
    pending: Pending[Finish]


class StepEngine:
    """Owns the device and implements `job.Engine`, one UNet step at a time.

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
        self._model = model
        self._scheduler = scheduler
        self._hooks = hooks
        self._clock = clock
        self._stopwatch = clock if stopwatch is None else stopwatch
        self._calls = calls
        self._fast = FastPath() if fast is None else fast
        self._fast.times.tell(scheduler.cost)
        self._accelerator = accelerator_of(model.device) if accelerator is None else accelerator
        self._ahead = Ahead(model, self._accelerator, self._stopwatch)
        self._checkpoints = checkpoints
        self._ladder = MemoryLadder(model, scheduler.policy.rows_max)
        stages = [Stage.BASE] if model.refiner is None else list(Stage)
        self._denoisers = {
            stage: Denoiser(
                model.unet(stage),
                model.lora_cache if stage is Stage.BASE else None,
                rescale=model.guidance_rescale(stage),
            )
            for stage in stages
        }
        self._arrivals = Arrivals(
            model.lora_cache,
            apart=hooks.apart,
            post=self._post,
            accept=self._accept,
            refuse=lambda job, error: hooks.on_failed(Failure.of(job, error.code, error.message)),
        )
        self._step_seconds = _FIRST_STEP_S
        self._live: dict[Origin, _Live] = {}
        self._to_decode: dict[Origin, _Live] = {}
        self._decoding: _Decoding | None = None
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._preemptions_told = 0

    def submit(self, job: Job) -> None:
        """Hand over a job; it starts at the next step if its lane allows."""
        self._post(lambda: self._arrivals.add(job) if job.loras else self._accept(job))

    def expect(self, jobs: Sequence[Job]) -> None:
        """Jobs that will be handed over next, in this order: what they need can be read ahead."""
        self._post(lambda: self._arrivals.ahead(jobs))

    def cancel(self, job_id: str, code: ErrorCode, message: str) -> None:
        """End a job before its next step, wherever it is; an unknown id is ignored."""
        self._post(lambda: self._cancel(job_id, code, message))

    def release(self, keep: Callable[[Origin], bool], *, started: bool) -> None:
        """Release jobs whose origin is not to be kept: those that have not started, or with `started` all of them."""
        self._post(lambda: self._release(keep, started))

    def wait(self, timeout_s: float) -> None:
        """Sleep until something is posted, at most `timeout_s`."""
        self._wake.wait(timeout_s)
        self._wake.clear()

    def tick(self) -> bool:
        """One step and at most one decode; False when there was nothing to do."""
        self._receive()
        now = self._clock()
        self._expire(now)
        with torch.inference_mode():
            self._scheduler.merged = self._exchange.holds
            batch = cast("tuple[Origin, ...]", self._scheduler.choose(self._stopwatch(), self._is_ready))
            held_up = cast("Origin | None", self._scheduler.held_up)
            self._hooks.on_room(self._room())
            if held_up is not None and not self._merge(held_up):
                batch = ()
            if batch:
                self._advance(batch, now)
            if held_up is None:
                self._merge_ahead()
            if batch:
                self._encode_ahead()
            self._receive()
            decoded = self._decode_one(idle=not batch and held_up is None)
        if not batch and not decoded and held_up is None:
            self._rest()
            return False
        return True

    def _post(self, command: Callable[[], None]) -> None:
        self._inbox.append(command)
        self._wake.set()

    def _receive(self) -> None:
        while self._inbox:
            self._inbox.popleft()()

    def _accept(self, job: Job) -> None:
        """Plan a job, whose LoRAs are pinned."""
        try:
            segments, compiled = self._sized(job, self._model.segments(job))
            checkpoint, left = self._go_on(job, segments, compiled)
            self._refuse_if_too_late(job, left)
        except RequestRejected as error:
            self._model.lora_cache.release(job.loras)
            self._hooks.on_failed(Failure.of(job, error.code, error.message))
            return
        self._live[job.origin] = _Live(job, sum(segment.steps for segment in segments), compiled, checkpoint)
        # It has waited since it was received: its start was only recorded when its turn was near.
        waited = max(0.0, self._clock() - job.received_at)
        self._scheduler.submit(job.origin, job.lane, left, self._stopwatch() - waited)

    def _sized(self, job: Job, segments: Sequence[Segment]) -> tuple[Sequence[Segment], bool]:
        """`segments` with the size of the calls that `job` is drawn with, and whether those are compiled ones."""
        if self._calls is None:
            return segments, False
        samples = self._calls.of(job)
        groups = [replace(segment.group, samples=samples) for segment in segments]
        compiled = self._fast.draws(job, groups)
        sized = zip(segments, groups, strict=True)
        return [replace(one, group=replace(group, compiled=compiled)) for one, group in sized], compiled

    def _go_on(
        self, job: Job, segments: Sequence[Segment], compiled: bool
    ) -> tuple[Checkpoint | None, Sequence[Segment]]:
        """The checkpoint that `job` brought, and what is left to do after it; one that is of no use is told."""
        if job.checkpoint is None:
            return None, segments
        try:
            checkpoint = Checkpoint(job.checkpoint)
            left = checkpoint.segments_left(segments)
            self._model.check(checkpoint, job)
            if checkpoint.facts.compiled != compiled:
                raise ValueError("begun with compiled steps here and eager ones there, or the reverse")
        except ValueError as error:
            _log.warning("checkpoint_unusable", **logs.about(job), error=str(error))
            return None, segments
        metrics.RESUMED_STEPS.inc(checkpoint.facts.steps_done)
        _log.info("job_resumed", **logs.about(job), steps_done=checkpoint.facts.steps_done)
        return checkpoint, left

    def _refuse_if_too_late(self, job: Job, segments: Sequence[Segment]) -> None:
        if job.expires_at is None:
            return
        needed, left = self._scheduler.shortest(job.lane, segments), job.expires_at - self._clock()
        if needed > left:
            if left > 0:
                self._scheduler.doubt(segments)
            raise RequestRejected(
                ErrorCode.EXPIRED,
                f"expires_at cannot be met: the picture needs at least {needed:.1f} s from now",
            )

    def _cancel(self, job_id: str, code: ErrorCode, message: str) -> None:
        for origin, live in [*self._live.items(), *self._to_decode.items()]:
            if live.job.job_id == job_id:
                self._end(origin, Failure.of(live.job, code, message))
        for job in self._arrivals.jobs:
            if job.job_id == job_id:
                self._fail_arrival(job, code, message)

    def _fail_arrival(self, job: Job, code: ErrorCode, message: str) -> None:
        self._arrivals.remove(job.origin)
        self._hooks.on_failed(Failure.of(job, code, message))

    def _release(self, keep: Callable[[Origin], bool], started: bool) -> None:
        for origin, live in [*self._live.items(), *self._to_decode.items()]:
            if keep(origin) or (live.row is not None and not started):
                continue
            self._remove(origin)
            job = self._with_checkpoint(live)
            if job.checkpoint is None:
                self._waste(live)
            self._unpin_loras(live)
            self._hooks.on_released(job)
        for job in self._arrivals.jobs:
            if not keep(job.origin):
                self._arrivals.remove(job.origin)
                self._hooks.on_released(job)

    def _with_checkpoint(self, live: _Live) -> Job:
        if not self._checkpoints or live.row is None or live.row.steps_done == live.steps:
            return live.job
        return replace(live.job, checkpoint=self._dump(live.row, live))

    def _dump(self, row: Row, live: _Live) -> bytes | None:
        return dump(row, self._model.lora_cache.fingerprints(live.job.loras), compiled=live.compiled)

    def _expire(self, now: float) -> None:
        for origin, live in [*self._live.items(), *self._to_decode.items()]:
            if live.job.expires_at is not None and now > live.job.expires_at:
                self._end(
                    origin,
                    Failure.of(live.job, ErrorCode.EXPIRED, "expires_at passed before the picture was done"),
                )
        for job in self._arrivals.jobs:
            if job.expires_at is not None and now > job.expires_at:
                self._fail_arrival(job, ErrorCode.EXPIRED, "expires_at passed before the picture was begun")

    @property
    def _exchange(self) -> Exchange:
        return self._model.lora_cache.exchange

    def _is_ready(self, row: QueuedRow) -> bool:
        return row.group.stage is Stage.REFINER or self._exchange.ready(row.loras)

    def _merge(self, origin: Origin) -> bool:
        """Merge on for a row that is held up by its set; rows of its lane are stepped in between.

        Returns:
            False where there is too little memory, so that the step has to be chosen anew.
        """
        loras, fits, before = cast("LoraSet | None", self._scheduler.loras(origin)), False, self._stopwatch()
        self._ahead.join()
        try:
            with one_error():
                self._model.bring(Stage.BASE)
                self._exchange.advance(loras, self._for(_MERGE_SHARE))
            fits = True
        except torch.OutOfMemoryError:
            pass
        if not fits:
            # Not above, as in `_advance`.
            self._relieve([origin], rows=1, decoding=False)
        metrics.PHASE.labels("merge").observe(self._stopwatch() - before)
        return fits

    def _merge_ahead(self) -> None:
        """Merge the set that is needed next, a little after each step that does without the second copy."""
        if not self._exchange.has_second_copy or self._exchange.in_use is not None:
            return
        wanted = cast("LoraSet | None", self._scheduler.next_set())
        if self._ahead.overlaps:
            self._ahead.merge(wanted)
            return
        # The row's turn will come, and with it whatever there is to do about a lack of memory.
        with suppress(torch.OutOfMemoryError), one_error():
            self._exchange.advance(wanted, self._for(_MERGE_AHEAD_SHARE))

    def _encode_ahead(self) -> None:
        """Encode the prompts of one job that waits, while a step runs."""
        if not self._ahead.overlaps:
            return
        waiting = (live.job for live in self._live.values() if live.row is None)
        new = [job for job in waiting if not self._ahead.has_encoded(job.origin)]
        if new:
            self._ahead.encode(min(new, key=lambda job: job.lane))

    def _for(self, share: float) -> Callable[[], bool]:
        """Whether there is time left of a share of a step."""
        until = self._stopwatch() + share * self._step_seconds
        return lambda: self._stopwatch() < until

    def _advance(self, batch: Sequence[Origin], now: float) -> None:
        """One UNet step of `batch`; an allocation that fails leaves every row as it was."""
        seconds, group = None, self._scheduler.group(batch[0])
        try:
            with one_error():
                rows = [self._row(origin, now) for origin in batch]
                seconds = self._step(rows, group)
        except _Ended:
            return
        except torch.OutOfMemoryError:
            pass
        if seconds is None:
            # Not above: while it is handled, the error keeps alive the tensors of every frame that it went through.
            self._relieve(batch, rows=self._scheduler.rows_at_most(group), decoding=False)
            return
        self._step_seconds = seconds
        self._scheduler.observe(batch, seconds)
        for row in rows:
            row.gpu_seconds += seconds / len(rows)
            row.reproducible &= not self._ladder.steps_differ(group)
        for origin in cast("tuple[Origin, ...]", self._scheduler.advance(batch)):
            self._to_decode[origin] = self._live.pop(origin)
        self._tell_progress(batch)
        _count(len(rows), self._scheduler.rows_at_most(group), seconds)

    def _row(self, origin: Origin, now: float) -> Row:
        live = self._live[origin]
        before, ahead = self._stopwatch(), 0.0
        try:
            if live.row is not None and not live.row.sampler.over:
                return live.row
            # What is encoded now, or was for others, may be what is encoded beside.
            ahead = self._ahead.take(origin)
            if live.row is None:
                live.row = self._begin(live, now)
            # At once where there is no timestep above the cut, so that the base has no step at all.
            if live.row.sampler.over:
                self._model.hand_over(live.row)
        except RequestRejected as error:
            self._end(origin, Failure.of(live.job, error.code, error.message))
            raise _Ended from error
        seconds = self._stopwatch() - before + ahead
        live.row.gpu_seconds += seconds
        # Of the first stage; the refiner's own encoding falls among the steps.
        live.row.text_seconds = live.row.text_seconds or seconds
        metrics.PHASE.labels("encode_text").observe(seconds)
        return live.row

    def _begin(self, live: _Live, now: float) -> Row:
        with logs.within(logs.about(live.job)):
            if live.checkpoint is None:
                row = self._model.prepare(live.job, now)
            else:
                row = self._model.resume(live.job, now, live.checkpoint)
        return row

    def _step(self, rows: list[Row], group: Group) -> float:
        def launch() -> None:
            self._model.bring(group.stage)
            if group.stage is Stage.BASE:
                if rows[0].conditioning.merged is not None:
                    self._ahead.join()
                # Compiled steps too: rows without LoRAs want the model's own weights.
                self._exchange.bring(rows[0].conditioning.merged)
            if not self._step_compiled(rows, group):
                self._denoisers[group.stage].step(rows, group.padded(self._ladder.rows_max))

        return self._accelerator.step(launch, (group, len(rows)), self._stopwatch)

    def _step_compiled(self, rows: list[Row], group: Group) -> bool:
        """Whether the step has run on the fast path; on the other one it gives other bits than it should."""
        if not group.compiled:
            return False
        if not self._ladder.steps_differ(group) and self._fast.step(group, rows):
            return True
        for row in rows:
            row.reproducible = False
        return False

    def _decode_one(self, *, idle: bool) -> bool:
        """Begin a decode or deliver one that is done; with `idle`, wait for it. False when there is none."""
        if self._decoding is not None:
            return self._deliver(self._decoding, idle=idle)
        if not self._to_decode:
            return False
        origin, live = min(self._to_decode.items(), key=lambda item: item[1].job.lane)
        if self._scheduler.newcomer_above(live.job.lane):
            return False
        assert live.row is not None
        begun, pending = self._stopwatch(), None
        try:
            with one_error(), logs.within(logs.about(live.job)):
                pending = self._begin_decode(live.row)
        except RequestRejected as error:
            self._end(origin, Failure.of(live.job, error.code, error.message))
            return True
        except torch.OutOfMemoryError:
            pass
        if pending is None:
            self._relieve([origin], rows=1, decoding=True)
            return True
        return self._deliver(_Decoding(origin, live, begun, pending), idle=idle)

    def _begin_decode(self, row: Row) -> Pending[Finish]:
        # Weights that are converted for a picture must not be freed while another stream reads them.
        if self._accelerator.overlaps and not is_converted(self._model.vae(row.stage), row.latents.dtype):
            to_host = self._accelerator.to_host
            return self._accelerator.beside(lambda: self._model.begin_decode(row, to_host), "decode")
        pixels = self._model.decode(row)
        return Pending(lambda: pixels)

    def _deliver(self, decoding: _Decoding, *, idle: bool) -> bool:
        """Deliver a picture once the device has finished it; meanwhile, the steps go on."""
        if not decoding.pending.is_done():
            if not idle:
                self._decoding = decoding
                return True
            decoding.pending.wait()
        self._decoding = None
        origin, live = decoding.origin, decoding.live
        if self._to_decode.get(origin) is not live:
            return True  # cancelled, expired or released meanwhile
        assert live.row is not None
        try:
            pixels = decoding.pending.value()
        except RequestRejected as error:
            self._end(origin, Failure.of(live.job, error.code, error.message))
            return True
        seconds = decoding.pending.seconds(self._stopwatch() - decoding.begun)
        self._scheduler.cost.observe_decode(live.row.latents.shape[-2], live.row.latents.shape[-1], seconds)
        metrics.PHASE.labels("decode").observe(seconds)
        timing = Timing(
            queue=max(0.0, live.row.started_at - live.job.requested_at),
            generation=max(0.0, self._clock() - live.row.started_at),
            gpu=live.row.gpu_seconds + seconds,
            started_at=live.row.started_at,
            encode_text=live.row.text_seconds,
            decode=seconds,
        )
        metrics.GPU_SECONDS.labels("useful").inc(timing.gpu)
        picture = Picture(
            live.job,
            pixels,
            timing,
            self._model.lora_cache.fingerprints(live.job.loras),
            reproducible=live.row.reproducible and not self._ladder.decodes_differ,
            compiled=live.compiled,
        )
        self._end(origin, picture)
        return True

    def _relieve(self, batch: Sequence[Origin], *, rows: int, decoding: bool) -> None:
        """Free memory for another try of the same rows; only a job that fails alone fails.

        Args:
            rows: those that the step may have had that failed.
        """
        # What is freed may be in use beside the steps.
        self._ahead.join()
        self._forget_batches()
        if not self._ladder.climb(rows=rows, decoding=decoding):
            [origin] = batch
            live = self._live.get(origin) or self._to_decode[origin]
            message = "the GPU has too little memory for this picture alone: ask for a smaller size"
            self._end(origin, Failure.of(live.job, ErrorCode.OUT_OF_MEMORY, message))
            # It was this one that did not fit; the others need not suffer for it.
            self._ladder.reset()
        self._resize()

    def _resize(self) -> None:
        """Give the scheduler the batch size of the ladder's rung."""
        metrics.MEMORY_RUNG.set(self._ladder.rung)
        self._scheduler.resize(self._ladder.rows_max)
        self._forget_batches()

    def _forget_batches(self) -> None:
        self._fast.forget()
        for denoiser in self._denoisers.values():
            denoiser.forget()

    def _tell_progress(self, batch: Sequence[Origin]) -> None:
        for origin in batch:
            live = self._live.get(origin)
            if live is None or live.row is None:
                continue
            part = live.row.steps_done * _PROGRESS_PARTS // live.steps
            if part > live.told:
                live.told = part
                self._hooks.on_progress(live.job, live.row.steps_done, live.steps)

    def _end(self, origin: Origin, result: Picture | Failure) -> None:
        live = self._remove(origin)
        if isinstance(result, Failure):
            self._waste(live)
            self._hooks.on_failed(result)
        else:
            self._hooks.on_pixels(result)
        self._unpin_loras(live)

    def _unpin_loras(self, live: _Live) -> None:
        self._model.lora_cache.release(live.job.loras)
        if live.row is not None:
            self._model.lora_cache.release(live.job.loras)

    def _remove(self, origin: Origin) -> _Live:
        self._ahead.drop(origin)
        self._scheduler.remove(origin)
        live = self._live.pop(origin, None)
        return self._to_decode.pop(origin) if live is None else live

    @staticmethod
    def _waste(live: _Live) -> None:
        if live.row is not None:
            metrics.GPU_SECONDS.labels("wasted").inc(live.row.gpu_seconds)

    def _rest(self) -> None:
        """Nothing to do: the moment to check the invariants and to come down the memory ladder."""
        self._scheduler.check_invariants()
        self._ahead.join()
        with suppress(torch.OutOfMemoryError), one_error():
            self._exchange.take_room()
        if self._exchange.ready(None):
            self._exchange.use(None)
        if self._ladder.rung:
            self._ladder.reset()
            self._resize()

    def _room(self) -> Room:
        decoding = [live.job.lane for live in self._to_decode.values()]
        urgent, high, normal = (
            rows + sum(other <= lane for other in decoding)
            for lane, rows in zip(Lane, self._scheduler.room(), strict=True)
        )
        return urgent, high, normal

    def report(self, queued: Sequence[Job]) -> None:
        """Set the gauges that are read, not counted, and pass on what the scheduler has counted."""
        preemptions = self._scheduler.counts.preemptions
        metrics.PREEMPTIONS.inc(preemptions - self._preemptions_told)
        self._preemptions_told = preemptions
        metrics.LORAS.set(self._model.lora_cache.loaded)
        gauges.set_memory(self._model.device, self._ladder.rung)
        not_begun = [live.job for live in list(self._live.values()) if live.row is None] + self._arrivals.jobs
        gauges.set_queue(self._scheduler.depth(), queued, not_begun, self._clock())


class _Ended(Exception):
    """A job of the batch has ended while it was prepared, so the batch has to be chosen anew."""


def _count(rows: int, most: int, seconds: float) -> None:
    _STEP_SECONDS.observe(seconds)
    metrics.STEPS.inc()
    metrics.ROW_STEPS.inc(rows)
    metrics.FREE_SLOTS.inc(most - rows)
