"""The parts of `bench worker`, by name. A part is a module, imported when it runs, with a function

    measure(repeats: int) -> dict[str, list[float]]

which returns one figure for each of the repeated pairs, by key. `aims.py` says what a key should be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import cast

Measure = Callable[[int], dict[str, list[float]]]

PARTS: Mapping[str, str] = {
    "efficiency": "devtools.bench.worker.efficiency",
    "idle": "devtools.bench.worker.idle",
    "intake": "devtools.bench.worker.intake",
    "growth": "devtools.bench.worker.growth",
    "startup": "devtools.bench.worker.startup",
    "costs": "devtools.bench.worker.costs",
}


def measure_of(module: str) -> Measure:
    """Import a part's module and return its `measure`."""
    return cast("Measure", import_module(module).measure)
