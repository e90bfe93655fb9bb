"""Random arrivals from a seed. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

from worker.job import Lane

# Shares of urgent, high and normal jobs.
MIX = (0.1, 0.3, 0.6)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job that arrives `at` seconds after the start."""

    at: float
    lane: Lane


def poisson(seed: int, count: int, per_second: float) -> list[Arrival]:
    """Return `count` Poisson arrivals; with another rate, the same jobs arrive, only faster or slower."""
    rng = random.Random(seed)
    at = 0.0
    arrivals = []
    for _ in range(count):
        at += rng.expovariate(1.0) / per_second
        arrivals.append(Arrival(at, rng.choices(list(Lane), MIX)[0]))
    return arrivals


def backlog(seed: int, count: int) -> list[Arrival]:
    """Return `count` jobs that all arrive at the start."""
    return [Arrival(0.0, arrival.lane) for arrival in poisson(seed, count, 1.0)]
