"""A simulated engine with random durations and the interface of `engine.loop.Engine`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from worker.engine_interface import EngineHooks, Room
from worker.errors import ErrorCode
from worker.failure import Failure
from worker.job import Job, Lane, Origin
from worker.picture import Picture, Timing

SIDE = 8
# As `worker.engine.schedule.room.START_AHEAD_S`.
_AHEAD_S = 0.5


@dataclass(slots=True, eq=False)
class _Row:
    job: Job
    length_s: float
    left_s: float
    started_at: float | None = None
    told: bool = False


class FakeEngine:
    """`slots` jobs at once, the most urgent ones; commands are carried out at the next tick, as in the real one.

    A job takes as long each time that it is drawn.
    """

    def __init__(
        self,
        seed: int,
        clock: Callable[[], float],
        hooks: EngineHooks,
        *,
        slots: int,
        longest_s: float,
        on_run: Callable[[Job], None],
    ) -> None:
        self._seed, self._clock = seed, clock
        self._slots, self._longest_s = slots, longest_s
        self._hooks, self._on_run = hooks, on_run
        self._inbox: list[Callable[[], None]] = []
        self._rows: dict[Origin, _Row] = {}
        self._active: list[_Row] = []
        self._ticked_at = clock()

    def submit(self, job: Job) -> None:
        self._inbox.append(lambda: self._accept(job))

    def cancel(self, job_id: str, code: ErrorCode, message: str) -> None:
        self._inbox.append(lambda: self._cancel(job_id, code, message))

    def release(self, keep: Callable[[Origin], bool], *, started: bool) -> None:
        self._inbox.append(lambda: self._release(keep, started))

    def tick(self) -> bool:
        """One step of everything; False when there was nothing to do."""
        inbox, self._inbox = self._inbox, []
        for command in inbox:
            command()
        now = self._clock()
        for row in self._active:
            row.left_s -= now - self._ticked_at
        self._ticked_at = now
        for row in list(self._active):
            self._step(row, now)
        self._active = sorted(self._rows.values(), key=lambda row: row.job.lane)[: self._slots]
        for row in self._active:
            if row.started_at is None:
                row.started_at = now
                self._on_run(row.job)
                self._hooks.on_progress(row.job, 1, row.job.request.num_inference_steps)
        self._hooks.on_room(self._room())
        return bool(inbox or self._rows)

    def wait(self, timeout_s: float) -> None:
        """The kernel lets a loop sleep that had nothing to do."""

    def expect(self, jobs: Sequence[Job]) -> None:
        """There are no files to read ahead."""

    def report(self, queued: Sequence[Job]) -> None:
        """There are no gauges."""

    def _accept(self, job: Job) -> None:
        longest_s = self._longest_s / 2 if self._has_half(job) else self._longest_s
        length_s = Random(f"{self._seed} {job.seed}").uniform(0.05, longest_s)
        self._rows[job.origin] = _Row(job, length_s, length_s)

    def _room(self) -> Room:
        ending = [row.job.lane for row in self._active if row.left_s <= _AHEAD_S]
        urgent, high, normal = (self._slots + sum(other <= lane for other in ending) for lane in Lane)
        return urgent, high, normal

    def _step(self, row: _Row, now: float) -> None:
        job = row.job
        if row.left_s <= 0:
            self._remove(job)
            result = self._result(job, row, now)
            if isinstance(result, Failure):
                self._hooks.on_failed(result)
            else:
                self._hooks.on_pixels(result)
        elif not row.told and row.left_s < row.length_s / 2:
            row.told = True
            self._hooks.on_progress(job, 2, job.request.num_inference_steps)

    @staticmethod
    def _result(job: Job, row: _Row, now: float) -> Picture | Failure:
        if job.prompt == "NaN":
            return Failure.of(job, ErrorCode.MODEL_ERROR, "the model made a picture of NaN")
        pixels = np.random.default_rng(job.seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        assert row.started_at is not None
        queue = max(0.0, row.started_at - job.requested_at)
        return Picture(job, pixels, Timing(queue, now - row.started_at, 0.1, row.started_at))

    @staticmethod
    def _has_half(job: Job) -> bool:
        assert job.checkpoint in (None, job.job_id.encode()), "the checkpoint of another job"
        return job.checkpoint is not None

    def _cancel(self, job_id: str, code: ErrorCode, message: str) -> None:
        for row in list(self._rows.values()):
            if row.job.job_id == job_id:
                self._remove(row.job)
                self._hooks.on_failed(Failure.of(row.job, code, message))

    def _release(self, keep: Callable[[Origin], bool], started: bool) -> None:
        for row in list(self._rows.values()):
            job, is_begun = row.job, row.started_at is not None
            if not keep(job.origin) and (started or not is_begun):
                half = replace(job, checkpoint=job.job_id.encode()) if is_begun else job
                self._remove(job)
                self._hooks.on_released(half)

    def _remove(self, job: Job) -> None:
        row = self._rows.pop(job.origin)
        if row in self._active:
            self._active.remove(row)
