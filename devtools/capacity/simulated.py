"""The highest load at which a fleet keeps its bounds: by the model, and simulated with the dispatcher's policy."""

from __future__ import annotations

from dataclasses import dataclass

from devtools.bench.fleet.search import BOUNDS, STEP, highest_load
from devtools.bench.fleet.simulate import Fleet, with_dispatch, without_dispatch
from devtools.capacity.sizing import HOP_S
from devtools.capacity.waits import quantile_waits

# As in `sdxl-worker bench fleet`: enough for a p95 of each lane that is good to about a percent of load.
LEAST_REQUESTS, REQUESTS_PER_WORKER, MOST_REQUESTS = 20_000, 300, 100_000
# The search begins so far below the model's limit.
BELOW = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """The highest loads at which `workers` keep the bounds, in hundredths."""

    workers: int
    without: float
    without_simulated: float
    dispatch: float
    dispatch_simulated: float


def limits(workers: int, service_s: float = 3.0, seed: int = 0) -> Limits:
    """Compute and simulate the limits of a fleet at `service_s` seconds a picture; minutes for hundreds of workers."""
    requests = max(LEAST_REQUESTS, min(REQUESTS_PER_WORKER * workers, MOST_REQUESTS))
    fleet = Fleet((service_s,) * workers, 0.0, requests)
    without, dispatch = modelled_limit(1, service_s), modelled_limit(workers, service_s, HOP_S)
    return Limits(
        workers,
        without,
        highest_load(without_dispatch, fleet, seed, without - BELOW),
        dispatch,
        highest_load(with_dispatch, fleet, seed, dispatch - BELOW),
    )


def modelled_limit(servers: int, service_s: float, hop_s: float = 0.0) -> float:
    """Return the highest load in hundredths at which one queue with `servers` workers keeps the bounds."""

    def keeps(load: float) -> bool:
        waits = quantile_waits(load * servers / service_s, service_s, servers=servers)
        return all(wait + hop_s <= bound for wait, bound in zip(waits, BOUNDS, strict=True))

    hundredths = round(1 / STEP)
    return max((step * STEP for step in range(1, hundredths) if keeps(step * STEP)), default=0.0)
