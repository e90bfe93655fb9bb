"""What the figures of `bench gpu` should be, and which are not. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from devtools.bench.gpu.cases import PLAIN

OVER_UNPADDED = 1.03
OVER_WITHOUT_LORA = 1.02
OVER_ONE_BY_ONE = 1.01
# By the card's name as in `cards.py`; in units of the floor with float32 accumulation.
OVER_FLOOR = {"H100": 2.0, "RTX 4090": 0.9}


@dataclass(frozen=True, slots=True)
class Aim:
    """One figure beside its aim; `measured` is None where the run has no such figure, for the reason in `why`."""

    what: str
    measured: float | None
    at_most: float
    where: str = ""
    why: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether it holds; None where nothing was measured."""
        return None if self.measured is None else self.measured <= self.at_most


def aims(report: Mapping[str, Any]) -> list[Aim]:
    """Return every aim with the worst figure of the report, and where that was measured."""
    return [
        _worst("alone, of unpadded", OVER_UNPADDED, _ratios(report, "unpadded", loras=False)),
        _worst("with LoRAs, of without", OVER_WITHOUT_LORA, _ratios(report, "without LoRA", loras=True)),
        _over_floor(report),
        _worst("joins, preemptions, of one by one", OVER_ONE_BY_ONE, _traffic(report, loras=False)),
        _worst("the same with LoRA changes", OVER_ONE_BY_ONE, _traffic(report, loras=True)),
    ]


def _ratios(report: Mapping[str, Any], other: str, *, loras: bool) -> Iterator[tuple[float, str]]:
    for entry in report["cases"]:
        ratio = entry.get("against", {}).get(other, {}).get("ratio")
        if ratio is not None and ("LoRA" in entry["kind"]) is loras:
            yield ratio, entry["case"]


def _traffic(report: Mapping[str, Any], *, loras: bool) -> Iterator[tuple[float, str]]:
    known = (entry for entry in report["traffic"] if entry["loras"] is loras and "ratio" in entry)
    return ((entry["ratio"], f"{entry['side_px']}²") for entry in known)


def _over_floor(report: Mapping[str, Any]) -> Aim:
    device = report["device"]
    known = next((aim for name, aim in OVER_FLOOR.items() if report["card"] is not None and name in device), None)
    what = "base, of the card's floor"
    if known is None:
        return Aim(what, None, OVER_FLOOR["H100"], why="no aim here")
    found = ((entry.get("over_floor"), entry["case"]) for entry in report["cases"] if entry["kind"] == PLAIN.name)
    return _worst(what, known, ((value, where) for value, where in found if value is not None))


def _worst(what: str, at_most: float, found: Iterator[tuple[float, str]]) -> Aim:
    measured, where = max(found, default=(None, ""))
    return Aim(what, measured, at_most, where, "" if measured is not None else "not measured")
