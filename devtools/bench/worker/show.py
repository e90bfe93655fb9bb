"""Format the report of `bench worker` as a table of 80 columns, and as lines about what has moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from devtools.bench.worker.aims import AIMS

WIDTH = 80
MET = {True: "yes", False: "no", None: ""}


def table(report: Mapping[str, Any]) -> Table:
    """Return the table of all figures."""
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column("figure", no_wrap=True)
    for heading in ("median", "range", "aim", "met"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for key, entry in report["figures"].items():
        aim = AIMS[key].text() if key in AIMS else "–"
        shown.add_row(key, number(entry["median"]), spread(entry), aim, MET[entry["met"]])
    return shown


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what stands below the table: parts that failed, and the comparison with the committed figures."""
    for name, why in report["failed"].items():
        yield f"{name} failed: {why}"
    kind = report["machine"]["kind"]
    known = {key: entry for key, entry in report["figures"].items() if entry["committed"] is not None}
    if not known:
        yield f"nothing to compare with: no figures of {kind} are committed"
        return
    changed = {key: entry for key, entry in known.items() if entry["moved"]}
    for key, entry in changed.items():
        change = f"{number(entry['committed'])} → {number(entry['median'])}{_way(key, entry)}"
        yield f"{key} moved by more than its noise: {change}"
    untold = sum(entry["moved"] is None for entry in known.values())
    if untold:
        yield f"{untold} of {len(known)} figures have too few pairs to be compared"
    elif not changed:
        yield f"nothing moved by more than its noise since the committed figures of {kind}"


def number(value: float) -> str:
    """Return a figure with three significant digits."""
    return f"{value:#.3g}".rstrip(".")


def spread(entry: Mapping[str, Any]) -> str:
    """Return the range of a figure's pairs."""
    return f"{number(entry['low'])}–{number(entry['high'])}"


def _way(key: str, entry: Mapping[str, Any]) -> str:
    if key not in AIMS:
        return ""
    return ", better" if (entry["median"] > entry["committed"]) is AIMS[key].at_least else ", worse"
