"""A fleet on a real Kafka, with and without dispatchers: the highest load that keeps the bounds, the hop, the pace.

Workers are real but for GPU and S3 (`workers.py`). They draw `Plan.scale` times as fast as a 4090, and the bounds are
shorter than the guide's alike. A hop takes as long as ever, so it weighs that much more than in production.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devtools.bench.fleet.hops import HopWatch
from devtools.bench.fleet.pace import pace
from devtools.bench.fleet.site import Site, broker, site
from devtools.bench.fleet.traffic import Begun, Sender, TrafficError, Waits
from worker.dispatch.policy import BOUNDS_S
from worker.job import Lane

# A standard picture on a 4090.
STANDARD_S = 3.0
START_TIMEOUT_S = 120.0
QUANTILE = 0.95


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        workers: number of workers.
        scale: how many times as fast as a 4090 they draw.
        seconds: of arrivals at each load.
        loads: those that are tried, ascending; the highest that keeps the bounds is found by bisection.
        dispatchers: numbers of dispatchers, each measured by itself.
        records: that the pace of one dispatcher is measured with; 0 for not.
    """

    workers: int = 8
    scale: float = 10.0
    seconds: float = 30.0
    loads: tuple[float, ...] = (0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    dispatchers: tuple[int, ...] = (1, 2)
    records: int = 20_000
    seed: int = 0

    @property
    def picture_s(self) -> float:
        """Seconds that a worker takes for a picture."""
        return STANDARD_S / self.scale

    def keeps_bounds(self, waits: Waits) -> bool:
        """Whether the p95 wait of every lane is within its scaled bound."""
        return all(waits.quantile_s(lane, QUANTILE) <= BOUNDS_S[lane] / self.scale for lane in Lane)


def measure(plan: Plan, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
    """Measure all of it on one local broker, with its files in `folder`."""
    report: dict[str, Any] = {"machine": machine(), "workers": plan.workers, "picture_s": plan.picture_s, "fleets": []}
    with broker(folder) as servers:
        for dispatchers in (0, *plan.dispatchers):
            with site(servers, f"fleet{dispatchers}", folder, 2 * plan.workers) as place:
                report["fleets"].append(_fleet(place, plan, dispatchers, note))
        if plan.records:
            note("one dispatcher's pace")
            with (
                site(servers, "pace", folder, 2 * plan.workers) as place,
                site(servers, "copy", folder, 2 * plan.workers) as plain,
            ):
                report |= pace(place, plain, plan.records)
    report["machine"]["load_average_at_end"] = os.getloadavg()[0]
    return report | _keys(report["fleets"])


def machine() -> dict[str, Any]:
    """The state of the machine, which all of the figures depend on."""
    return {"cores": os.cpu_count(), "load_average_at_start": os.getloadavg()[0]}


def _keys(fleets: list[dict[str, Any]]) -> dict[str, Any]:
    without, *with_ = fleets
    found: dict[str, Any] = {"fleet_load_at_bounds_without": without["load_at_bounds"]}
    if with_:
        one = with_[0]
        found |= {
            "fleet_load_at_bounds": one["load_at_bounds"],
            "urgent_p99_wait_s": one["urgent_p99_wait_s"],
            "hop_p50_s": one["hop_p50_s"],
            "hop_p99_s": one["hop_p99_s"],
            "lora_changes_share": round(one["changes_per_picture"] / max(1e-9, without["changes_per_picture"]), 3),
        }
    return found


def _fleet(place: Site, plan: Plan, dispatchers: int, note: Callable[[str], None]) -> dict[str, Any]:
    log = place.folder / "begun.log"
    begun, sender = Begun(log), Sender(place.servers, place.topics)
    for number in range(dispatchers):
        place.dispatcher(f"dispatcher-{number}")
    place.workers(plan.workers, plan.picture_s, log, behind_dispatchers=dispatchers > 0)
    _await_everybody(sender, begun, plan)
    rate_at_full = plan.workers / plan.picture_s

    def run(load: float, *, loras: bool) -> Waits:
        note(f"{dispatchers} dispatchers, load {load:.0%}{' with LoRAs' if loras else ''}")
        name = f"{place.topics.prefix}{load:.2f}{'l' if loras else 'p'}-{time.monotonic_ns()}"
        sent = sender.run(name, load * rate_at_full, plan.seconds, plan.seed, loras=loras)
        return begun.wait_for(sent, 60 + 4 * plan.seconds)

    watch = HopWatch(place) if dispatchers else None
    run(plan.loads[0], loras=False)
    hops = [] if watch is None else watch.stop()
    best, at_best = _highest(plan, lambda load: run(load, loras=False))
    with_loras = run(min(plan.loads, key=lambda load: abs(load - 0.85)), loras=True)
    found = {
        "dispatchers": dispatchers,
        "load_average": round(os.getloadavg()[0], 1),
        "load_at_bounds": best,
        "p95_waits_s": {} if at_best is None else _quantiles(at_best, QUANTILE),
        "urgent_p99_wait_s": None if at_best is None else round(at_best.quantile_s(Lane.URGENT, 0.99), 4),
        "changes_per_picture": round(with_loras.changes / with_loras.drawn, 3),
        "p95_waits_with_loras_s": _quantiles(with_loras, QUANTILE),
    }
    if hops:
        found |= {"hop_p50_s": round(hops[len(hops) // 2], 4), "hop_p99_s": round(hops[int(len(hops) * 0.99)], 4)}
    return found


def _quantiles(waits: Waits, quantile: float) -> dict[str, float]:
    return {lane.label: round(waits.quantile_s(lane, quantile), 4) for lane in Lane}


def _highest(plan: Plan, run: Callable[[float], Waits]) -> tuple[float, Waits | None]:
    """The highest of the loads that keeps the bounds, by bisection, and its waits; 0 where none does."""
    keeps, fails, best = -1, len(plan.loads), None
    while fails - keeps > 1:
        middle = (keeps + fails) // 2
        waits = run(plan.loads[middle])
        if plan.keeps_bounds(waits):
            keeps, best = middle, waits
        else:
            fails = middle
    return (plan.loads[keeps] if keeps >= 0 else 0.0), best


def _await_everybody(sender: Sender, begun: Begun, plan: Plan) -> None:
    """Send a few requests at a time until all of a round are drawn within moments: everybody has his partitions."""
    deadline, number = time.monotonic() + START_TIMEOUT_S, 0
    while True:
        sent = {}
        for _ in range(2 * plan.workers):
            job_id = f"warm-{time.monotonic_ns()}-{number}"
            number += 1
            sent[job_id] = Lane.NORMAL, time.time()
            sender.send(job_id, Lane.NORMAL)
        sender.flush()
        waits = begun.wait_for(sent, max(1.0, deadline - time.monotonic()))
        if waits.quantile_s(Lane.NORMAL, 1.0) < 10 * plan.picture_s:
            return
        if time.monotonic() > deadline:
            raise TrafficError(f"the fleet was not ready in {START_TIMEOUT_S:.0f} s")
