"""The plan of a run: which faults happen when, drawn from a seed. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.options import SESSION_TIMEOUT_S


class Kind(StrEnum):
    """What is done to the system."""

    KILL = "kill"
    STALL = "stall"
    DRAIN = "drain"
    BROKER = "broker bounce"
    S3_STOP = "S3 stop"
    S3_SUSPEND = "S3 suspend"
    BROKER_SLOW = "broker slow"
    S3_SLOW = "S3 slow"
    S3_REFUSED = "S3 right removed"
    RIGHT_REMOVED = "right removed"
    STATUS_DELETED = "status topic deleted and made again"
    LOST_END = "log end lost"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault at `at` seconds into the run; what it took away returns after `lasts_s`.

    `new_name`: the worker that comes for a killed one has another WORKER_ID, hence no claim to its open transaction.
    """

    at: float
    kind: Kind
    lasts_s: float
    new_name: bool = False


# Seconds between two faults of a kind, and how many there are at least, however short the run.
_EVERY_S = {Kind.KILL: (5.5, 16), Kind.STALL: (30, 3), Kind.DRAIN: (40, 2)}
_SITE_EVERY_S, _SITE_MIN = 14.0, 11
_QUIET_FIRST_S = 3.0
_NEW_NAME_SHARE = 0.3
SITE_KINDS = (
    *(Kind.BROKER, Kind.S3_STOP, Kind.BROKER_SLOW, Kind.S3_SLOW, Kind.RIGHT_REMOVED),
    *(Kind.BROKER, Kind.S3_SUSPEND, Kind.STATUS_DELETED, Kind.S3_REFUSED, Kind.RIGHT_REMOVED),
    # The whole cluster is away for as long as it takes to start.
    Kind.LOST_END,
)


def draw(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run of this length, in order of time."""
    rng = random.Random(seed)
    faults = []
    for kind, (every_s, least) in _EVERY_S.items():
        for _ in range(max(least, round(seconds / every_s))):
            at = rng.uniform(_QUIET_FIRST_S, seconds)
            faults.append(Fault(at, kind, _lasts(kind, rng), kind is Kind.KILL and rng.random() < _NEW_NAME_SHARE))
    return sorted([*faults, *_site_faults(rng, seconds)], key=lambda fault: fault.at)


def _site_faults(rng: random.Random, seconds: float) -> list[Fault]:
    """Brokers and S3 in turn and apart, since three brokers are made to lose one, not two."""
    number = max(_SITE_MIN, round(seconds / _SITE_EVERY_S))
    apart = (seconds - _QUIET_FIRST_S) / number
    kinds = [SITE_KINDS[index % len(SITE_KINDS)] for index in range(number)]
    return [
        Fault(_QUIET_FIRST_S + (index + rng.random() * 0.3) * apart, kind, _lasts(kind, rng))
        for index, kind in enumerate(kinds)
    ]


def _lasts(kind: Kind, rng: random.Random) -> float:
    match kind:
        case Kind.STALL:
            return SESSION_TIMEOUT_S + rng.uniform(2, 6)
        case Kind.BROKER:
            return rng.uniform(0.5, 4)
        case Kind.S3_STOP | Kind.S3_SUSPEND:
            return rng.uniform(3, 9)
        case Kind.BROKER_SLOW | Kind.S3_SLOW | Kind.S3_REFUSED | Kind.RIGHT_REMOVED:
            return rng.uniform(3, 8)
        case Kind.STATUS_DELETED | Kind.LOST_END:
            return rng.uniform(1, 5)
        case _:
            return rng.choice((0.1, rng.uniform(0.5, 3), rng.uniform(3, SESSION_TIMEOUT_S + 4)))
