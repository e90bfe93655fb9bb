"""Simulated worlds: random ones by seed, and a few written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from tests.sim.faults import BETWEEN, CRASHES, DELAYS, LOST, Fault, Plan
from tests.sim.requests import Kind, Request, again, make
from tests.sim.world import Scenario

SENDING_S = 4.0
_RATES = (0.0, 0.01, 0.03, 0.1)
_KINDS = (Kind.GOOD,) * 14 + (Kind.NAN, Kind.INVALID, Kind.UNDECODABLE)


def random_scenario(seed: int) -> Scenario:
    """Everything at once, in a dose that the seed decides."""
    rng = Random(seed)
    requests = _requests(rng, rng.randint(3, 14))
    if rng.random() < 0.15:
        requests.append((rng.uniform(0, SENDING_S), make(len(requests) + 1, Kind.POISON, 2, "poison", "poison")))
    return Scenario(
        requests,
        workers=rng.randint(1, 3),
        partitions=rng.randint(1, 3),
        classic=rng.random() < 0.3,
        older=int(rng.random() < 0.15),
        plan=Plan(rate=rng.choice(_RATES), choices=rng.choice(_choices())),
        trouble_s=rng.uniform(4, 12),
        kills=_times(rng, 2),
        stalls=_times(rng, 2),
        drains=_times(rng, 1),
        joins=_times(rng, 1),
        outages=[(at, at + rng.uniform(0.5, 6)) for at in _times(rng, 1)],
        new_names=rng.random() < 0.3,
        lost_ends=_times(rng, 1) if rng.random() < 0.4 else [],
        refusals=_times(rng, 2) if rng.random() < 0.2 else [],
    )


def lone_worker(plan: Plan) -> Scenario:
    """A few of each kind, one worker."""
    first = make(1, Kind.GOOD, 0, "a")
    requests = [first, make(2, Kind.GOOD, 2, "b"), make(3, Kind.UNDECODABLE, 1, "c"), again(4, first, 2)]
    return Scenario(_spread(requests, 0.5), workers=1, partitions=1, plan=plan, trouble_s=2.0)


def rebalance(plan: Plan) -> Scenario:
    """A second worker comes while the first is busy."""
    requests = [make(n, Kind.NAN if n == 3 else Kind.GOOD, n % 3, f"job-{n}") for n in range(1, 6)]
    return Scenario(_spread(requests, 0.6), workers=1, partitions=2, plan=plan, joins=[0.5], trouble_s=2.0)


def drained(plan: Plan) -> Scenario:
    """Two workers under the classic protocol, one leaves."""
    requests = [make(n, Kind.GOOD, n % 3, f"job-{n}") for n in range(1, 5)]
    return Scenario(
        _spread(requests, 0.4), workers=2, partitions=2, classic=True, plan=plan, drains=[0.6], trouble_s=2.0
    )


BY_HAND: Mapping[str, Callable[[Plan], Scenario]] = {
    "lone_worker": lone_worker,
    "rebalance": rebalance,
    "drained": drained,
}


def _spread(requests: list[Request], seconds: float) -> list[tuple[float, Request]]:
    return [(seconds * n / len(requests), request) for n, request in enumerate(requests)]


def _choices() -> tuple[tuple[Fault, ...], ...]:
    errors = tuple(fault for fault in Fault if fault not in BETWEEN)
    return tuple(Fault), errors, DELAYS + errors, CRASHES, DELAYS, LOST


def _times(rng: Random, most: int) -> list[float]:
    return [rng.uniform(0.2, 8) for _ in range(rng.randint(0, most))]


def _requests(rng: Random, count: int) -> list[tuple[float, Request]]:
    sent: list[tuple[float, Request]] = []
    for number in range(1, count + 1):
        lane, when = rng.randrange(3), rng.uniform(0, SENDING_S)
        if sent and rng.random() < 0.12:
            request = again(number, rng.choice(sent)[1], lane)
        elif sent and rng.random() < 0.04:
            request = make(number, Kind.GOOD, lane, rng.choice(sent)[1].job_id, f"another picture, {number}")
        else:
            request = make(number, rng.choice(_KINDS), lane, f"job-{number}")
        sent.append((when, request))
    return sent
