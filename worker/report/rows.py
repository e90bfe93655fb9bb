"""The report as rows: the same ones become a table, JSON, CSV and the page's tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.report.guide import BOUNDS_S, EXPECTED_USD, OUTSIDE_USD
from worker.report.read import Reading
from worker.report.tally import DIMENSIONS, MAX_KEYS, MAX_REMEMBERED, OTHERS, Cell, Tally

LANES = ("urgent", "high", "normal")


@dataclass(frozen=True, slots=True)
class Row:
    """One group. Waits are seconds, from the request to the first step; None where it is not known.

    Args:
        dimension: day, lane, girl, user or total.
        within_bound: the share of the pictures whose job waited no longer than its lane's bound.
    """

    dimension: str
    key: str
    pictures: int
    failures: int
    within_bound: float | None
    wait_p50_s: float | None
    wait_p95_s: float | None
    gpu_seconds: float
    cost_usd: float | None
    usd_per_picture: float | None

    def as_json(self) -> dict[str, Any]:
        """The row with sensible digits."""
        return {name: _rounded(getattr(self, name)) for name in self.__slots__}


def all_rows(tally: Tally, dimensions: Iterable[str] = DIMENSIONS) -> Iterator[Row]:
    """The rows of the given dimensions, then the total; days and lanes in their order, others by pictures."""
    for dimension in dimensions:
        for key in _order(dimension, tally.cells[dimension]):
            yield _row(tally, dimension, key, tally.cells[dimension][key])
    yield _row(tally, "total", "", tally.total)


def as_csv(rows: Iterable[Row]) -> str:
    """The rows as CSV with a heading; a text that a spreadsheet would take for a formula is kept a text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Row.__slots__)
    for row in rows:
        told = row.as_json()
        key = f"'{row.key}" if row.key.startswith(("=", "+", "-", "@", "\t")) else row.key
        writer.writerow(["" if value is None else value for value in (told | {"key": key}).values()])
    return out.getvalue()


def as_object(reading: Reading, rows: Iterable[Row], until: datetime) -> dict[str, Any]:
    """The whole report as a JSON object."""
    tally = reading.tally
    return {
        "since": None if tally.since is None else tally.since.isoformat(),
        "until": (tally.until or until).isoformat(),
        "groups": [row.as_json() for row in rows],
        "failures_by_code": dict(tally.codes.most_common()),
        "bounds_s": dict(BOUNDS_S),
        "outside_usd_per_picture": dict(OUTSIDE_USD),
        "expected_usd_per_picture": EXPECTED_USD,
        "counted": {
            "records": tally.records,
            "repeats": tally.repeats,
            "replayed": tally.replayed,
            "undecodable": tally.undecodable,
        },
        "notes": list(notes(reading)),
    }


def notes(reading: Reading) -> Iterator[str]:
    """What the figures leave out, a sentence each."""
    tally = reading.tally
    for topic, at in tally.begins.items():
        yield f"{topic} reaches back to {at.isoformat(timespec='seconds')}: older results may have expired."
    if tally.repeats:
        yield f"{tally.repeats} further results of jobs that were counted already are left out."
    if tally.replayed:
        yield f"{tally.replayed} results of replays are left out."
    if tally.undecodable:
        yield f"{tally.undecodable} records could not be read as results."
    if tally.unchecked:
        yield f"After {MAX_REMEMBERED} jobs, repeats are not noticed ({tally.unchecked} results)."
    if any(OTHERS in cells for cells in tally.cells.values()):
        yield f"Beyond {MAX_KEYS} girls, users or days, further ones are counted together as {OTHERS}."
    if tally.total.unpriced:
        cure = "set GPU_HOURLY_USD on the workers, or give --gpu-hourly-usd"
        yield f"{tally.total.unpriced} pictures have no cost: {cure}."
    if tally.total.failures:
        yield "Failed jobs tell no GPU-seconds: what they cost is not in the figures."
    if tally.total.pictures:
        yield "The cost is that of the GPU-seconds of pictures; hours in which a rented GPU waits come on top."


def outside_text(tally: Tally) -> str | None:
    """Our price per picture beside those of others, in one sentence; None where it is not known."""
    own = tally.total.usd_per_picture
    if own is None:
        return None
    others = ", ".join(f"{name} ${usd:g}" for name, usd in OUTSIDE_USD.items())
    least = min(OUTSIDE_USD.values())
    saved = f", {1 - own / least:.0%} below the cheapest of them" if own < least else ", more than the cheapest of them"
    return f"${own:.5f} per picture (outside: {others}){saved}; the guide expects about ${EXPECTED_USD:g}"


def _row(tally: Tally, dimension: str, key: str, cell: Cell) -> Row:
    waits = tally.waits.get(key) if dimension == "lane" else None
    priced = cell.pictures - cell.unpriced
    return Row(
        dimension,
        key,
        cell.pictures,
        cell.failures,
        1 - cell.late / cell.pictures if cell.pictures else None,
        None if waits is None else waits.quantile(0.5),
        None if waits is None else waits.quantile(0.95),
        cell.gpu_seconds,
        cell.cost_usd if priced else None,
        cell.usd_per_picture,
    )


def _order(dimension: str, cells: dict[str, Cell]) -> list[str]:
    if dimension == "day":
        return sorted(cells)
    if dimension == "lane":
        return sorted(cells, key=lambda key: (LANES.index(key) if key in LANES else len(LANES), key))
    return sorted(cells, key=lambda key: (-cells[key].pictures, -cells[key].failures, key))


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
