"""Jobs that join, preempt each other and change LoRAs, against the same jobs one after another.

Both runs do the same steps, encodings and decodes, so the ratio of their times is what joins and preemptions cost.
Arrivals are counted in UNet calls, not in seconds, so every card and every round gets the same mix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from math import ceil
from typing import Any

from devtools.bench.gpu.cases import PLAIN, Case, Kind
from devtools.bench.gpu.engine_side import Arrival, EngineSide, Ticks
from devtools.bench.gpu.pairs import in_turns
from worker.job import Lane

# After which part of a picture's steps each job comes, its lane, and how many LoRAs it has where they change.
_MIX = (
    (0.0, Lane.NORMAL, 0),
    (0.0, Lane.NORMAL, 1),
    (0.3, Lane.URGENT, 2),
    (0.7, Lane.HIGH, 0),
    (1.6, Lane.URGENT, 1),
    (2.2, Lane.URGENT, 0),
    (2.5, Lane.HIGH, 2),
    (3.4, Lane.URGENT, 0),
)


def mix(side_px: int, steps: int, *, loras: bool) -> list[Arrival]:
    """Return the arrivals of one run."""
    return [
        Arrival(
            ceil(part * steps), Case(side_px, steps, Kind(f"{many} LoRAs", many) if loras and many else PLAIN), lane
        )
        for part, lane, many in _MIX
    ]


def measure(side: EngineSide, arrivals: list[Arrival], prompts: Iterator[str], rounds: int) -> dict[str, Any]:
    """Return the seconds of both runs and their ratio, and the times of the steps in the mixed one.

    Raises:
        NotDrawn: a job failed.
    """
    runs: dict[str, list[Ticks]] = {"mixed": [], "one_by_one": []}
    preemptions = 0.0

    def together() -> float:
        nonlocal preemptions
        runs["mixed"].append(Ticks())
        before = side.preemptions()
        seconds = side.play(arrivals, list(islice(prompts, len(arrivals))), runs["mixed"][-1])
        preemptions = side.preemptions() - before
        return seconds

    def one_by_one() -> float:
        runs["one_by_one"].append(Ticks())
        return sum(side.draw(arrival.case, next(prompts), runs["one_by_one"][-1]) for arrival in arrivals)

    pairs = in_turns(together, one_by_one, rounds)
    return {
        "jobs": len(arrivals),
        "mixed_s": pairs.ours,
        "one_by_one_s": pairs.theirs,
        "ratio": pairs.ratio,
        "preemptions": preemptions,
        # The first run of each is the one that is not counted.
        "mixed_steps": step_times(runs["mixed"][1:]),
        "one_by_one_steps": step_times(runs["one_by_one"][1:]),
    }


def step_times(runs: Sequence[Ticks]) -> dict[str, float | int | None]:
    """Return percentiles in ms: of the ticks with a step and no decode, and the longest of those with one."""
    ms = sorted(1000 * seconds for ticks in runs for seconds in ticks.steps)
    longest = max((seconds for ticks in runs for seconds in ticks.with_decode), default=None)
    return {
        "count": len(ms),
        "p50_ms": _rank(ms, 50),
        "p99_ms": _rank(ms, 99),
        "max_ms": _rank(ms, 100),
        "max_with_decode_ms": None if longest is None else 1000 * longest,
    }


def _rank(ms: list[float], percent: int) -> float | None:
    """The percentile by nearest rank."""
    return ms[max(0, ceil(len(ms) * percent / 100) - 1)] if ms else None
