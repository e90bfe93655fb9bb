"""The `report` verb: pictures, failures, waits and costs over a window, from the result topics."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from worker.cli.flags import between
from worker.cli.output import note_console, print_line, result_console
from worker.cli.watch import parse_since
from worker.client.connection import connect
from worker.report.page import page
from worker.report.read import Reading, read_results
from worker.report.rows import Row, all_rows, as_csv, as_object, notes, outside_text
from worker.report.tally import DIMENSIONS, Tally

_TOP = 10


@dataclass(frozen=True, slots=True)
class Window:
    """From one moment to another; None is open."""

    since: datetime | None
    until: datetime | None


def report(
    since: Annotated[
        str,
        typer.Option(metavar="TIME", help="Start of the window: an age (10m, 2h, 7d), a time or `beginning`."),
    ] = "7d",
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="End of the window: an age or a time (default: now).")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT", help="Group only by day, lane, girl or user; may be repeated."),
    ] = None,
    gpu_hourly_usd: Annotated[
        float | None,
        typer.Option(
            metavar="USD",
            callback=between(0.0, 1e6),
            help="Price of a GPU hour, for pictures whose event tells no cost (default: GPU_HOURLY_USD).",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one line per group.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with plots into this file.")
    ] = None,
) -> None:
    """Count pictures, failures, waits, GPU-seconds and costs in a time window.

    The figures come from the completed and failed topics, read_committed; what
    they leave out is said below them. Prompts are not part of a report.
    """
    window = _window(since, until)
    dimensions = _dimensions(by or [])
    if as_json and csv:
        raise typer.BadParameter("--json and --csv cannot be combined")
    with connect() as connection, note_console().status("reading") as note:
        price = connection.settings.gpu_hourly_usd if gpu_hourly_usd is None else gpu_hourly_usd
        tally = Tally(window.since, window.until, price)
        began = time.monotonic()
        reading = read_results(connection, tally, note.update)
        seconds = time.monotonic() - began
    rows = list(all_rows(tally, dimensions))
    now = datetime.now(UTC)
    if html is not None:
        html.write_text(page(reading, now), encoding="utf-8")
    if as_json:
        print(json.dumps(as_object(reading, rows, now)))
    elif csv:
        print(as_csv(rows), end="")
    elif html is None:
        _print(reading, rows, dimensions)
    rate = tally.records / seconds if seconds else 0
    note_console().print(f"{tally.records} results in {seconds:.1f} s ({rate:.0f} a second)", style="dim")


def _window(since: str, until: str | None) -> Window:
    now = time.time()
    try:
        begin = None if since == "beginning" else _moment(parse_since(since, now=now))
        end = None if until is None else _moment(parse_since(until, now=now))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if begin is not None and end is not None and begin >= end:
        raise typer.BadParameter("--since must be before --until")
    return Window(begin, end)


def _moment(millis: int) -> datetime:
    return datetime.fromtimestamp(millis / 1000, UTC)


def _dimensions(names: list[str]) -> tuple[str, ...]:
    unknown = [name for name in names if name not in DIMENSIONS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(DIMENSIONS)}")
    return tuple(name for name in DIMENSIONS if not names or name in names)


def _print(reading: Reading, rows: list[Row], dimensions: tuple[str, ...]) -> None:
    for dimension in dimensions:
        own = [row for row in rows if row.dimension == dimension]
        shown = own if dimension in ("day", "lane") else own[:_TOP]
        if shown:
            result_console().print(_table(dimension, shown))
            more = len(own) - len(shown)
            print(f"{more} more, in --csv and --json\n" if more else "")
    total = rows[-1]
    print(f"{total.pictures} pictures, {total.failures} failures, {total.gpu_seconds / 3600:.3f} GPU-hours")
    if reading.tally.codes:
        print("failed as " + ", ".join(f"{code} {count}" for code, count in reading.tally.codes.most_common()))
    price = outside_text(reading.tally)
    for line in ([price] if price else []) + list(notes(reading)):
        print_line(Text(line))


def _table(dimension: str, rows: list[Row]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    # A long id is folded, so that no column of figures is cut at 80 characters.
    table.add_column(dimension, overflow="fold", min_width=6 if dimension == "lane" else 10)
    headings = ["pictures", "failures", "in bound", *(["p50", "p95"] if dimension == "lane" else [])]
    for heading in (*headings, "GPU-h", "cost", "$ each"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        waits = [_seconds(row.wait_p50_s), _seconds(row.wait_p95_s)] if dimension == "lane" else []
        table.add_row(
            row.key,
            str(row.pictures),
            str(row.failures),
            "–" if row.within_bound is None else f"{row.within_bound:.1%}",
            *waits,
            _hours(row.gpu_seconds),
            "–" if row.cost_usd is None else f"{row.cost_usd:.2f}",
            "–" if row.usd_per_picture is None else f"{row.usd_per_picture:.5f}",
        )
    return table


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3f}" if seconds < 36_000 else f"{seconds / 3600:.1f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"
