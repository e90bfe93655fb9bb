"""Run parts and report their figures: medians, ranges, aims, and what has moved since the committed figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from devtools.bench.worker.aims import AIMS
from devtools.bench.worker.figures import Figures
from devtools.bench.worker.noise import Summary, moved
from devtools.bench.worker.parts import measure_of

DIGITS = 4


def run(
    parts: Mapping[str, str], repeats: int, kind: str, committed: Figures, say: Callable[[str, Mapping[str, Any]], None]
) -> dict[str, Any]:
    """Run the parts one after the other; one that fails says so in the report, and the others go on.

    Args:
        parts: module by name.
        repeats: pairs of each figure.
        say: told of each part that begins: its name, and the report so far.
    """
    report: dict[str, Any] = {
        "machine": {"kind": kind, "load_average_at_start": round(os.getloadavg()[0], 2)},
        "figures": {},
        "failed": {},
    }
    for name, module in parts.items():
        say(name, report)
        try:
            found = measure_of(module)(repeats)
        except Exception as error:  # whatever it is, the other parts' figures are still worth having
            report["failed"][name] = f"{type(error).__name__}: {error}"
            continue
        for key, values in found.items():
            report["figures"][key] = figure(key, values, committed)
            report[key] = report["figures"][key]["median"]
    report["machine"]["load_average_at_end"] = round(os.getloadavg()[0], 2)
    return report


def figure(key: str, values: list[float], committed: Figures) -> dict[str, Any]:
    """Return the entry of one figure; `moved` is None where nothing tells."""
    summary, aim, before = Summary.of(values), AIMS.get(key), committed.get(key)
    return {
        "median": round(summary.median, DIGITS),
        "low": round(summary.low, DIGITS),
        "high": round(summary.high, DIGITS),
        "aim": None if aim is None else aim.bound,
        "met": None if aim is None else aim.met(summary.median),
        "committed": None if before is None else round(Summary.of(before).median, DIGITS),
        "moved": None if before is None else moved(before, values),
        "values": [round(value, DIGITS) for value in values],
    }


def values_of(report: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return what `figures.keep` takes."""
    return {key: entry["values"] for key, entry in report["figures"].items()}
