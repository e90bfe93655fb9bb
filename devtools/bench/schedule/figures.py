"""Compute the figures of the report. Pure; times are in UNet steps, since a toy model's seconds are meaningless."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from devtools.bench.schedule.policies import FIFO, OURS
from devtools.bench.schedule.simulate import Simulation, Step, Visit
from worker.job import Lane


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile by nearest rank: the smallest value that `percent` of the values do not exceed.

    For few values, p99 is the largest one.
    """
    return sorted(values)[max(0, ceil(len(values) * percent / 100) - 1)]


def summary(simulation: Simulation, step_s: float) -> dict[str, Any]:
    """Summarise one policy on one trace; waits end when the first UNet call begins, completions with the pixels."""
    visits, tally = simulation.visits, simulation.tally
    slots = simulation.slots
    return {
        "classes": {lane.label: _of_lane([v for v in visits if v.lane is lane], step_s) for lane in Lane},
        "pictures_per_1000_steps": 1000 * len(visits) * step_s / simulation.seconds,
        # Only busy steps count: with fewer jobs than slots, no policy could fill the slots.
        "useful_slot_share": tally.busy_row_steps / (slots * tally.busy_steps) if tally.busy_steps else 1.0,
        "urgent_p99_passed_by_steps": float(percentile(passed_by(visits, simulation.steps), 99)),
        "used_slot_share": tally.row_steps / (slots * tally.steps),
        "unet_steps": tally.steps,
        "busy_steps": tally.busy_steps,
        "real_seconds_in_ticks": simulation.real_seconds,
    }


def passed_by(visits: Sequence[Visit], steps: Sequence[Step]) -> list[int]:
    """Return for each urgent job how many steps without any urgent job began while it waited for its first one."""
    others = [step.at for step in steps if not any(name.startswith(Lane.URGENT.label) for name in step.names)]
    return [
        bisect_left(others, visit.started) - bisect_right(others, visit.arrived)
        for visit in visits
        if visit.lane is Lane.URGENT and visit.started is not None
    ]


def _of_lane(visits: Sequence[Visit], step_s: float) -> dict[str, Any]:
    times = {
        "wait": [v.started - v.arrived for v in visits if v.started is not None],
        "completion": [v.ended - v.arrived for v in visits if v.ended is not None],
    }
    assert all(len(some) == len(visits) for some in times.values()), "a job was not finished"
    ranks = {"p50": 50.0, "p99": 99.0, "max": 100.0}
    steps = {
        f"{rank}_{name}_steps": percentile(some, percent) / step_s if some else None
        for name, some in times.items()
        for rank, percent in ranks.items()
    }
    return {"jobs": len(visits)} | steps


def headline(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Compare our policy with FIFO batches; the keys are those of the targets in `show.py`."""
    ours, fifo = summaries[OURS], summaries[FIFO]

    def over_fifo(lane: Lane, key: str) -> float:
        ratio: float = ours["classes"][lane.label][key] / fifo["classes"][lane.label][key]
        return ratio

    return {
        "urgent_p99_wait_over_fifo": over_fifo(Lane.URGENT, "p99_wait_steps"),
        "urgent_p99_completion_over_fifo": over_fifo(Lane.URGENT, "p99_completion_steps"),
        "urgent_p99_passed_by_steps": ours["urgent_p99_passed_by_steps"],
        "urgent_p99_wait_steps": ours["classes"][Lane.URGENT.label]["p99_wait_steps"],
        "throughput_over_fifo": ours["pictures_per_1000_steps"] / fifo["pictures_per_1000_steps"],
        "normal_p99_completion_over_fifo": over_fifo(Lane.NORMAL, "p99_completion_steps"),
        "useful_slot_share": ours["useful_slot_share"],
    }
