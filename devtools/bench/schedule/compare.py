"""`bench schedule`: compare four policies on the same arrivals through the real engine.

The engine, the step scheduler, the denoiser and the decode are real, and in the headline run so is every UNet and VAE
call. Only time is virtual: each piece of work advances the clock by its median, measured in the same run. Load on a
shared machine therefore does not favour any policy, and the seed and four prices determine the whole schedule. Longer
traces replace UNet and VAE by stand-ins with the same prices; each run checks that this does not change the schedule.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch

from devtools.bench.schedule import figures, overhead, together
from devtools.bench.schedule.model import Prices
from devtools.bench.schedule.policies import FIFO, NAMES, OURS, make
from devtools.bench.schedule.prices import REAL_BOUNDS_S, REAL_STEP_S, bounds, jobs_per_second, measure_prices
from devtools.bench.schedule.simulate import SIDE_PX, STEPS, Simulation, side_by_side
from devtools.bench.schedule.traffic import MIX, Arrival, backlog, poisson
from worker.job import Lane

HEADLINE_LOAD = 0.8
_LIBRARIES = ("torch", "diffusers", "transformers", "numpy")


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of the benchmark; more `jobs` and `long_jobs` make the p99 values more reliable, but take longer.

    `slots` are the rows of a call: one, as for a picture of 1024² on any card. The overhead is that of a call of
    `overhead_rows`.
    """

    seed: int = 0
    jobs: int = 200
    long_jobs: int = 1500
    loads: tuple[float, ...] = (0.5, 0.8, 0.9)
    slots: int = 1
    overhead_rows: int = 4
    rounds: int = 6


@dataclass(frozen=True, slots=True)
class Result:
    """The report to write, and for the plot the waits of the long headline trace, by policy and lane."""

    report: dict[str, Any]
    waits: dict[str, dict[str, list[float]]]


def compare(base: Any, plan: Plan, note: Callable[[str], None]) -> Result:
    """Run the whole benchmark; `note` is called with a description of each part when it starts.

    Raises:
        ValueError: there are so few jobs that a lane has none.
    """
    for jobs in (plan.jobs, plan.long_jobs):
        if len({arrival.lane for arrival in poisson(plan.seed, jobs, 1.0)}) < len(Lane):
            raise ValueError(f"with {jobs} jobs of seed {plan.seed}, a lane has no job: use more jobs")
    note("measuring the time of a step, a decode and a start")
    prices = measure_prices(base, slots=plan.slots, rounds=3)
    bench = _Bench(base, plan, prices)
    note("measuring the overhead per step, compared with diffusers")
    us = overhead.measure(base, slots=plan.overhead_rows, rounds=plan.rounds)
    note(f"{plan.jobs} jobs at load {HEADLINE_LOAD}, four policies, real UNet and VAE")
    real = bench.run(HEADLINE_LOAD, plan.jobs, real=True)
    same = bench.same_schedule(real[OURS])
    by_load = {}
    for load in plan.loads:
        note(f"{plan.long_jobs} jobs at load {load}, four policies, stand-ins for UNet and VAE")
        by_load[load] = bench.run(load, plan.long_jobs, real=False)
    note("a backlog")
    full = bench.backlog()
    summaries = bench.summaries(real)
    report: dict[str, Any] = figures.headline(summaries) | overhead.headline(us, plan.overhead_rows)
    report["wall_throughput_over_fifo"] = real[FIFO].real_seconds / real[OURS].real_seconds
    report["capacity_over_fifo"] = full[FIFO].seconds / full[OURS].seconds
    report["overhead_us"] = us
    note(f"{plan.long_jobs} jobs at load {HEADLINE_LOAD}, calls of four rows and of one")
    report |= together.measure(base, seed=plan.seed, jobs=plan.long_jobs, load=HEADLINE_LOAD)
    report["headline"] = {"load": HEADLINE_LOAD, "jobs": plan.jobs, "real_unet": True, "policies": summaries}
    report["stand_ins_give_the_same_schedule"] = same
    report["long"] = {str(load): _long(bench.summaries(runs)) for load, runs in by_load.items()}
    report["conditions"] = bench.conditions()
    return Result(report, _waits(by_load.get(HEADLINE_LOAD, real), prices.step))


class _Bench:
    """The model and the prices of one run."""

    def __init__(self, base: Any, plan: Plan, prices: Prices) -> None:
        self._base, self._plan, self._prices = base, plan, prices

    def run(self, load: float, jobs: int, *, real: bool) -> dict[str, Simulation]:
        rate = load * jobs_per_second(self._prices, self._plan.slots)
        arrivals = poisson(self._plan.seed, jobs, rate)
        runs = {name: self._simulation(name, arrivals, real=real) for name in NAMES}
        side_by_side(list(runs.values()))
        return runs

    def same_schedule(self, real: Simulation) -> bool:
        """Return whether our policy runs the same steps at the same times on the headline trace with stand-ins."""
        rate = HEADLINE_LOAD * jobs_per_second(self._prices, self._plan.slots)
        arrivals = poisson(self._plan.seed, self._plan.jobs, rate)
        return self._simulation(OURS, arrivals, real=False).run().steps == real.steps

    def backlog(self) -> dict[str, Simulation]:
        """Run all policies with all jobs waiting at the start, to measure their throughput on a busy device."""
        arrivals = backlog(self._plan.seed, self._plan.jobs)
        return {name: self._simulation(name, arrivals, real=False).run() for name in (FIFO, OURS)}

    def summaries(self, runs: dict[str, Simulation]) -> dict[str, Any]:
        return {name: figures.summary(run, self._prices.step) for name, run in runs.items()}

    def _simulation(self, name: str, arrivals: Sequence[Arrival], *, real: bool) -> Simulation:
        scheduler = make(name, bounds(self._prices.step))
        return Simulation(self._base, scheduler, self._prices, arrivals, slots=self._plan.slots, real=real)

    def conditions(self) -> dict[str, Any]:
        """Return the conditions of the measurement: machine, versions, seed, prices and settings."""
        return {
            "plan": asdict(self._plan),
            "mix_urgent_high_normal": MIX,
            "steps_per_picture": STEPS,
            "side_px": SIDE_PX,
            "prices_s": asdict(self._prices),
            "bounds_s": bounds(self._prices.step),
            "bounds_steps": [bound / REAL_STEP_S for bound in REAL_BOUNDS_S],
            "processor": _processor(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "load_average": os.getloadavg(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in _LIBRARIES},
        }


def _long(summaries: dict[str, Any]) -> dict[str, Any]:
    return figures.headline(summaries) | {"real_unet": False, "policies": summaries}


def _waits(runs: dict[str, Simulation], step_s: float) -> dict[str, dict[str, list[float]]]:
    waits: dict[str, dict[str, list[float]]] = {}
    for name, run in runs.items():
        by_class = waits.setdefault(name, {})
        for visit in run.visits:
            if visit.started is not None:
                by_class.setdefault(visit.lane.label, []).append((visit.started - visit.arrived) / step_s)
    return waits


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a device file
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
