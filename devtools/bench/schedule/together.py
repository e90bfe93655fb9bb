"""Calls of four rows against calls of one, on a card that one picture keeps busy, as any is at 1024².

On such a card a step of four rows takes as long as four steps of one. Time is virtual, in steps of one row; everything
else costs nothing. The arrivals are the same for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from devtools.bench.schedule.figures import percentile
from devtools.bench.schedule.model import Prices
from devtools.bench.schedule.policies import OURS, make
from devtools.bench.schedule.prices import bounds
from devtools.bench.schedule.simulate import STEPS, Simulation, Visit
from devtools.bench.schedule.traffic import Arrival, poisson
from worker.job import Lane

JOBS = 4
ALL = "all"


def mean_completion_steps(base: Any, rows: int) -> float:
    """Return the mean time until the picture of each of `JOBS` jobs that wait together, in calls of `rows`."""
    return mean(_completions(_run(base, rows, [Arrival(0.0, Lane.NORMAL)] * JOBS).visits))


def measure(base: Any, *, seed: int, jobs: int, load: float) -> dict[str, Any]:
    """Return how long four jobs take that wait together, and the waits and completions of a whole trace, in both."""
    shared, turns = mean_completion_steps(base, JOBS), mean_completion_steps(base, 1)
    arrivals = poisson(seed, jobs, load / STEPS)
    by_size = {"shared": _lanes(_run(base, JOBS, arrivals)), "turns": _lanes(_run(base, 1, arrivals))}
    figures = {
        "together_shared_steps": shared,
        "together_turns_steps": turns,
        "together_turns_over_shared": turns / shared,
    }
    for lane in (Lane.URGENT, Lane.HIGH, Lane.NORMAL):
        ours, before = by_size["turns"][lane.label], by_size["shared"][lane.label]
        key = f"{lane.label}_p99_completion_turns_over_shared"
        figures[key] = ours["p99_completion_steps"] / before["p99_completion_steps"]
    return figures | {"by_call_size": by_size | {"jobs": jobs, "load": load}}


def _run(base: Any, rows: int, arrivals: Sequence[Arrival]) -> Simulation:
    prices = Prices(accept=0.0, prepare=0.0, step=float(rows), decode=0.0)
    return Simulation(base, make(OURS, bounds(1.0)), prices, arrivals, slots=rows, real=False).run()


def _lanes(run: Simulation) -> dict[str, dict[str, float]]:
    by_lane = {lane.label: [visit for visit in run.visits if visit.lane is lane] for lane in Lane}
    return {name: _summary(visits) for name, visits in (by_lane | {ALL: run.visits}).items()}


def _summary(visits: Sequence[Visit]) -> dict[str, float]:
    waits = [visit.started - visit.arrived for visit in visits if visit.started is not None]
    completions = _completions(visits)
    return {
        "p50_wait_steps": percentile(waits, 50),
        "p99_wait_steps": percentile(waits, 99),
        "mean_completion_steps": mean(completions),
        "p50_completion_steps": percentile(completions, 50),
        "p99_completion_steps": percentile(completions, 99),
    }


def _completions(visits: Sequence[Visit]) -> list[float]:
    return [visit.ended - visit.arrived for visit in visits if visit.ended is not None]
