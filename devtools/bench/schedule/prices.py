"""Measure the prices of the virtual clock: medians of real work on this machine, each kind in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, TypeVar

import torch

from devtools.bench.jobs import call_sizes
from devtools.bench.schedule.model import Prices
from devtools.bench.schedule.simulate import STEPS, bench_job
from devtools.bench.schedule.traffic import Arrival
from worker.engine.loop import StepEngine
from worker.engine.pipeline import SdxlModel
from worker.engine.schedule.policy import Policy
from worker.engine.schedule.scheduler import StepScheduler
from worker.engine_interface import EngineHooks
from worker.job import Lane

# Seconds of a UNet call of one guided 1024² row on an H100: 2.26 pictures of 20 steps per second (MLPerf v5.1) give
# 22 ms, rounded up for the rest of the step. The policy's bounds are scaled by the ratio of the toy's step to this.
REAL_STEP_S = 0.025
REAL_BOUNDS_S = (1.0, 2.0, 5.0)

_T = TypeVar("_T")


def measure_prices(base: Any, *, slots: int, rounds: int) -> Prices:
    """Measure the prices; a step is a whole tick of the engine with as many rows as a call has.

    Steps are measured `rounds` times the number of steps of one picture.
    """
    model = SdxlModel(base)
    seconds: dict[str, list[float]] = {"accept": [], "prepare": [], "step": [], "decode": []}

    def timed(kind: str, work: Callable[[], _T]) -> _T:
        began = time.perf_counter()
        result = work()
        seconds[kind].append(time.perf_counter() - began)
        return result

    a_job = bench_job(0, Arrival(0.0, Lane.NORMAL))
    for _ in range(rounds):
        engine = _filled(model, slots)
        for _ in range(STEPS - 2):
            timed("step", engine.tick)
            timed("accept", lambda: model.segments(a_job))
            with torch.inference_mode():
                row = timed("prepare", lambda: model.prepare(a_job, 0.0))
                timed("decode", lambda row=row: model.decode(row))  # type: ignore[misc]
    return Prices(**{kind: median(some) for kind, some in seconds.items()})


def bounds(step_s: float) -> tuple[float, float, float]:
    """Return the default bounds of the waits in seconds, scaled to the toy's step."""
    urgent, high, normal = (bound * step_s / REAL_STEP_S for bound in REAL_BOUNDS_S)
    return urgent, high, normal


def jobs_per_second(prices: Prices, slots: int) -> float:
    """Return the capacity of the device, which is load 1."""
    alone = prices.accept + prices.prepare + prices.decode
    return slots / (STEPS * prices.step + slots * alone)


def _filled(model: SdxlModel, slots: int) -> StepEngine:
    hooks = EngineHooks(on_pixels=lambda _: None, on_failed=lambda _: None)
    engine = StepEngine(model, StepScheduler(Policy()), hooks, time.time, calls=call_sizes(slots))
    for index in range(slots):
        engine.submit(bench_job(index, Arrival(time.time(), Lane.NORMAL)))
    engine.tick()  # prepares the rows
    return engine
