"""Lag during an overload: the difference of arrivals and capacity decides, and randomness does not matter. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from devtools.capacity.sizing import Gpu


def backlog(rates: Sequence[float], served: Sequence[float], step_s: float, start: float = 0.0) -> list[float]:
    """Return the number of waiting requests at the end of each step of `step_s` seconds.

    This models lag during an overload, where the difference of `rates` and `served` (both per second) decides, and
    random variation does not matter.
    """
    levels = []
    level = start
    for coming, going in zip(rates, served, strict=True):
        level = max(0.0, level + (coming - going) * step_s)
        levels.append(level)
    return levels


def catch_up_s(behind: float, per_second: float, gpus: int, gpu: Gpu) -> float:
    """Return the seconds until a lag of `behind` requests is worked off; infinite if arrivals exceed the capacity."""
    spare = gpus / gpu.seconds_per_picture - per_second
    return math.inf if spare <= 0 else behind / spare
