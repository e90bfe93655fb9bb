"""How long four jobs take that wait together, by the size of a call, on a card that one picture keeps busy.

On such a card a step of four rows takes as long as four steps of one. Time is virtual, in steps of one row; everything
else costs nothing.
"""

from __future__ import annotations

from statistics import mean
from typing import Any

from devtools.bench.schedule.model import Prices
from devtools.bench.schedule.policies import OURS, make
from devtools.bench.schedule.simulate import Simulation
from devtools.bench.schedule.traffic import Arrival
from worker.job import Lane

JOBS = 4


def mean_completion_steps(base: Any, rows: int) -> float:
    """Return the mean time until the picture of each of the jobs, where a call has room for `rows`."""
    prices = Prices(accept=0.0, prepare=0.0, step=float(rows), decode=0.0)
    scheduler = make(OURS, (1e9, 1e9, 1e9))
    run = Simulation(base, scheduler, prices, [Arrival(0.0, Lane.NORMAL)] * JOBS, slots=rows, real=False).run()
    return mean(visit.ended - visit.arrived for visit in run.visits if visit.ended is not None)


def measure(base: Any) -> dict[str, float]:
    """Return the mean completions, and that of jobs that take turns relative to that of jobs that share each call."""
    shared, turns = mean_completion_steps(base, JOBS), mean_completion_steps(base, 1)
    return {
        "together_shared_steps": shared,
        "together_turns_steps": turns,
        "together_turns_over_shared": turns / shared,
    }
