"""A simulated engine with random durations and the interface of `engine.loop.Engine`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from worker.errors import ErrorCode
from worker.job import EngineHooks, Failure, Job, Lane, Origin, Picture, Room, Timing

SIDE = 8
# As `worker.engine.schedule.START_AHEAD_S`.
_AHEAD_S = 0.5


@dataclass(slots=True)
class _Row:
    job: Job
    started_at: float
    ends_at: float
    told: bool = False


class FakeEngine:
    """`slots` jobs at once, out of order; commands are carried out at the next tick, as in the real one.

    Args:
        by_job: a job takes as long each time, so that runs can be compared.
    """

    def __init__(
        self,
        rng: Random,
        clock: Callable[[], float],
        hooks: EngineHooks,
        *,
        slots: int,
        longest_s: float,
        by_job: bool = False,
        on_run: Callable[[Job], None],
    ) -> None:
        self._rng, self._clock = rng, clock
        self._slots, self._longest_s = slots, longest_s
        self._hooks, self._on_run = hooks, on_run
        self._by_job = by_job
        self._inbox: list[Callable[[], None]] = []
        self._waiting: dict[Origin, Job] = {}
        self._rows: dict[Origin, _Row] = {}

    def submit(self, job: Job) -> None:
        self._inbox.append(lambda: self._waiting.update({job.origin: job}))

    def cancel(self, job_id: str, code: ErrorCode, message: str) -> None:
        self._inbox.append(lambda: self._cancel(job_id, code, message))

    def release(self, keep: Callable[[Origin], bool], *, started: bool) -> None:
        self._inbox.append(lambda: self._release(keep, started))

    def tick(self) -> bool:
        """One step of everything; False when there was nothing to do."""
        inbox, self._inbox = self._inbox, []
        for command in inbox:
            command()
        for job in sorted(self._waiting.values(), key=lambda job: job.lane)[: self._slots - len(self._rows)]:
            del self._waiting[job.origin]
            now = self._clock()
            longest_s = self._longest_s / 2 if self._has_half(job) else self._longest_s
            rng = Random(job.seed) if self._by_job else self._rng
            self._rows[job.origin] = _Row(job, now, now + rng.uniform(0.05, longest_s))
            self._on_run(job)
            self._hooks.on_progress(job, 1, job.request.num_inference_steps)
        self._hooks.on_room(self._room())
        for row in list(self._rows.values()):
            self._step(row)
        return bool(inbox or self._rows)

    def wait(self, timeout_s: float) -> None:
        """The kernel lets a loop sleep that had nothing to do."""

    def report(self, queued: Sequence[Job]) -> None:
        """There are no gauges."""

    def _room(self) -> Room:
        ending = [row.job.lane for row in self._rows.values() if row.ends_at - self._clock() <= _AHEAD_S]
        urgent, high, normal = (self._slots + sum(other <= lane for other in ending) for lane in Lane)
        return urgent, high, normal

    def _step(self, row: _Row) -> None:
        now, job = self._clock(), row.job
        if now >= row.ends_at:
            del self._rows[job.origin]
            result = self._result(job, row, now)
            if isinstance(result, Failure):
                self._hooks.on_failed(result)
            else:
                self._hooks.on_pixels(result)
        elif not row.told and now > (row.started_at + row.ends_at) / 2:
            row.told = True
            self._hooks.on_progress(job, 2, job.request.num_inference_steps)

    @staticmethod
    def _result(job: Job, row: _Row, now: float) -> Picture | Failure:
        if job.prompt == "NaN":
            return Failure.of(job, ErrorCode.MODEL_ERROR, "the model made a picture of NaN")
        pixels = np.random.default_rng(job.seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        queue = max(0.0, row.started_at - job.requested_at)
        return Picture(job, pixels, Timing(queue, now - row.started_at, 0.1, row.started_at))

    @staticmethod
    def _has_half(job: Job) -> bool:
        assert job.checkpoint in (None, job.job_id.encode()), "the checkpoint of another job"
        return job.checkpoint is not None

    def _cancel(self, job_id: str, code: ErrorCode, message: str) -> None:
        for job in self._jobs():
            if job.job_id == job_id:
                self._remove(job)
                self._hooks.on_failed(Failure.of(job, code, message))

    def _release(self, keep: Callable[[Origin], bool], started: bool) -> None:
        for job in self._jobs():
            if not keep(job.origin) and (started or job.origin not in self._rows):
                half = replace(job, checkpoint=job.job_id.encode()) if job.origin in self._rows else job
                self._remove(job)
                self._hooks.on_released(half)

    def _jobs(self) -> list[Job]:
        return [*self._waiting.values(), *(row.job for row in self._rows.values())]

    def _remove(self, job: Job) -> None:
        self._waiting.pop(job.origin, None)
        self._rows.pop(job.origin, None)
