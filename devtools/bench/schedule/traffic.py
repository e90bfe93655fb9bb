"""Seeded arrivals. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

from worker.job import Lane

# Of the jobs; urgent, high, normal.
MIX = (0.1, 0.3, 0.6)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job that comes `at` seconds after the start."""

    at: float
    lane: Lane


def poisson(seed: int, count: int, per_second: float) -> list[Arrival]:
    """`count` arrivals at a mean rate; another rate brings the same jobs, closer together or wider apart."""
    rng = random.Random(seed)
    at = 0.0
    arrivals = []
    for _ in range(count):
        at += rng.expovariate(1.0) / per_second
        arrivals.append(Arrival(at, rng.choices(list(Lane), MIX)[0]))
    return arrivals


def backlog(seed: int, count: int) -> list[Arrival]:
    """`count` jobs that are all there at the start."""
    return [Arrival(0.0, arrival.lane) for arrival in poisson(seed, count, 1.0)]
