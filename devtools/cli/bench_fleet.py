"""`bench fleet`: a fleet with and without a dispatcher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from worker.cli.flags import INT, between
from worker.cli.output import note_console, print_json, result_console

REPORT = Path("out/bench/fleet.json")
# Enough requests for each worker that queues build up, in minutes of one core for the largest fleet.
REQUESTS_PER_WORKER = 300
LEAST_REQUESTS = 20_000


def fleet(
    out: Annotated[Path, typer.Option(help="File for the JSON report.")] = REPORT,
    workers: Annotated[
        list[int] | None,
        typer.Option(metavar="N", min=1, max=10_000, help="Size of a fleet; may be given several times (8, 13, 128)."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", callback=between(0, INT), help="Seed of the arrivals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON report instead of tables.")] = False,
) -> None:
    """Simulate fleets with and without a dispatcher, with the dispatcher's own policy.

    For each size: the highest load at which the p95 waits keep the bounds of 2, 5
    and 10 s at 3 s a picture, and how often a worker changes its LoRAs with a Zipf
    choice among 200 sets.
    """
    from devtools.bench.fleet.search import figures, lora_changes

    report: dict[str, Any] = {"simulated": [], "loras": []}
    with note_console().status("simulating") as note:
        for count in workers or (8, 13, 128):
            note.update(f"simulating {count} workers")
            requests = max(LEAST_REQUESTS, REQUESTS_PER_WORKER * count)
            report["simulated"].append(figures(count, requests, seed))
            report["loras"].append(lora_changes(count, requests, seed))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    if as_json:
        print_json(report)
        return
    console = result_console()
    console.print("highest load that keeps the bounds, with and without a dispatcher")
    console.print(_loads(report["simulated"]))
    console.print("\nchanges of LoRAs per picture at a load of 85 %, with and without affinity,")
    console.print("and what affinity leaves of them and of those that read files")
    console.print(_changes(report["loras"]))


def _loads(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold")
    for heading in ("workers", "dispatcher", "without", "p95 waits in s: urgent, high, normal"):
        table.add_column(heading, justify="right")
    for row in rows:
        waits = ", ".join(f"{wait:.1f}" for wait in row["p95_waits_s"].values())
        with_, without = f"{row['load_at_bounds']:.0%}", f"{row['load_at_bounds_without']:.0%}"
        table.add_row(str(row["workers"]), with_, without, waits)
    return table


def _changes(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold")
    for heading in ("workers", "affinity", "without", "share", "reads"):
        table.add_column(heading, justify="right")
    for row in rows:
        with_, without = row["changes_per_picture"], row["changes_per_picture_without_affinity"]
        table.add_row(
            str(row["workers"]),
            f"{with_:.2f}",
            f"{without:.2f}",
            f"{row['lora_changes_share']:.0%}",
            f"{row['reads_share']:.0%}",
        )
    return table
