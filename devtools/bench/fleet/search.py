"""The highest load at which a fleet keeps its bounds, and what its LoRA changes come to; by simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from devtools.bench.fleet.simulate import Fleet, Outcome, keeps_bounds, with_dispatch, without_dispatch
from worker.dispatch.policy import BOUNDS_S
from worker.job import Lane

PICTURE_S = 3.0
BOUNDS = tuple(BOUNDS_S[lane] for lane in Lane)
# Loads are tried in steps of a hundredth.
STEP = 0.01
LORAS = 200
CHANGE_S = 0.1

Simulate = Callable[[Fleet, int], Outcome]


def highest_load(simulate: Simulate, fleet: Fleet, seed: int, low: float = 0.3) -> float:
    """The highest load that keeps every lane's p95 wait within its bound, by bisection; 0 where not even `low` does."""
    keeps, fails = round(low / STEP), round(1 / STEP)
    if not keeps_bounds(simulate(replace(fleet, load=low), seed), BOUNDS):
        return 0.0
    while fails - keeps > 1:
        middle = (keeps + fails) // 2
        if keeps_bounds(simulate(replace(fleet, load=middle * STEP), seed), BOUNDS):
            keeps = middle
        else:
            fails = middle
    return round(keeps * STEP, 2)


def figures(workers: int, requests: int, seed: int) -> dict[str, Any]:
    """The highest loads of a fleet of equal workers, with and without a dispatcher, and what that means for waits."""
    fleet = Fleet((PICTURE_S,) * workers, 0.0, requests)
    found = {
        "load_at_bounds": highest_load(with_dispatch, fleet, seed),
        "load_at_bounds_without": highest_load(without_dispatch, fleet, seed),
    }
    at_best = with_dispatch(replace(fleet, load=found["load_at_bounds"]), seed)
    return {
        "workers": workers,
        "requests": requests,
        **found,
        "p95_waits_s": {lane.label: round(at_best.quantile_s(lane), 3) for lane in Lane},
        "urgent_p99_wait_s": round(at_best.quantile_s(Lane.URGENT, 0.99), 3),
    }


def lora_changes(workers: int, requests: int, seed: int, load: float = 0.85) -> dict[str, Any]:
    """Changes of the LoRA set per picture with a Zipf choice among `LORAS` sets, with and without affinity.

    `lora_changes_share` is what affinity leaves of them; `reads_share` what it leaves of the changes to a set that the
    worker has not drawn lately.
    """
    fleet = Fleet((PICTURE_S,) * workers, load, requests, loras=LORAS, change_s=CHANGE_S)
    with_, without = with_dispatch(fleet, seed), with_dispatch(replace(fleet, affinity=False), seed)
    return {
        "workers": workers,
        "load": load,
        "changes_per_picture": round(with_.changes_share, 3),
        "changes_per_picture_without_affinity": round(without.changes_share, 3),
        "lora_changes_share": round(with_.changes_share / without.changes_share, 3),
        "reads_share": round(with_.reads_share / without.reads_share, 3),
        "p95_waits_s": {lane.label: round(with_.quantile_s(lane), 3) for lane in Lane},
    }
