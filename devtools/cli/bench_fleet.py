"""`bench fleet`: a fleet with and without a dispatcher."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.table import Table

from worker.cli.flags import INT, between
from worker.cli.output import note_console, print_json, result_console

REPORT = Path("out/bench/fleet.json")
# Enough requests for each worker that queues build up, in minutes of one core for the largest fleet.
REQUESTS_PER_WORKER = 300
LEAST_REQUESTS, MOST_REQUESTS = 20_000, 100_000
CHOICES_S = 2.0


def fleet(
    out: Annotated[Path, typer.Option(help="File for the JSON report.")] = REPORT,
    workers: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", min=1, max=10_000, help="Size of a simulated fleet; may be repeated (8, 13, 128, 1280)."
        ),
    ] = None,
    simulated: Annotated[bool, typer.Option(help="Simulate fleets.")] = True,
    kafka: Annotated[
        bool, typer.Option("--kafka", help="Measure eight workers on a real local Kafka too; takes 15 minutes.")
    ] = False,
    dispatchers: Annotated[
        list[int] | None,
        typer.Option(metavar="N", min=1, max=8, help="Number of dispatchers on Kafka; may be repeated (1, 2)."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(metavar="S", min=1, max=3600, help="Seconds of arrivals at each load on Kafka.")
    ] = 30.0,
    scale: Annotated[
        float, typer.Option(metavar="X", min=1, max=10, help="How many times as fast as a 4090 they draw on Kafka.")
    ] = 10.0,
    seed: Annotated[int, typer.Option(metavar="N", callback=between(0, INT), help="Seed of the arrivals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON report instead of tables.")] = False,
) -> None:
    """Measure fleets with and without a dispatcher: simulated, and on a real Kafka.

    Simulated, with the dispatcher's own policy, for each size: the highest load
    at which the p95 waits keep the bounds of 2, 5 and 10 s at 3 s a picture; how
    often a worker changes its LoRAs with a Zipf choice among 200 sets; how many
    requests the policy places in a second of one processor.

    On Kafka: eight workers without GPU and S3, at a tenth of these times. That is
    too short for the delays of a busy machine; --scale 3 makes them a third.

    The JSON report keeps what an earlier run has measured of the other part.
    """
    from devtools.bench.fleet.choices import choices_per_s
    from devtools.bench.fleet.search import figures, lora_changes

    report = _earlier(out)
    with note_console().status("starting") as note:
        if kafka:
            from devtools.bench.fleet.measured import Plan, measure

            plan = Plan(seconds=seconds, scale=scale, seed=seed, dispatchers=tuple(dispatchers or (1, 2)))
            with TemporaryDirectory(prefix="bench-fleet-") as folder:
                report |= measure(plan, Path(folder), note.update)
        if simulated:
            report |= {"simulated": [], "loras": [], "choices_per_cpu_s": {}}
        for count in (workers or (8, 13, 128, 1280)) if simulated else ():
            note.update(f"simulating {count} workers")
            requests = max(LEAST_REQUESTS, min(REQUESTS_PER_WORKER * count, MOST_REQUESTS))
            report["simulated"].append(figures(count, requests, seed))
            report["loras"].append(lora_changes(count, requests, seed))
            report["choices_per_cpu_s"][str(count)] = round(choices_per_s(count, CHOICES_S, seed))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    if as_json:
        print_json(report)
        return
    _print(report)


def _earlier(out: Path) -> dict[str, Any]:
    try:
        report = json.loads(out.read_text())
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def _print(report: dict[str, Any]) -> None:
    console = result_console()
    if "simulated" in report:
        console.print("highest load that keeps the bounds, with and without a dispatcher")
        console.print(_loads(report["simulated"]))
        console.print("\nchanges of LoRAs per picture at a load of 85 %, with and without affinity,")
        console.print("what affinity leaves of them, and of those that read files; choices a second")
        console.print(_changes(report["loras"], report["choices_per_cpu_s"]))
    if "fleets" in report:
        console.print(
            f"\n{report['workers']} workers on Kafka, {report['picture_s']:g} s a picture, waits in ms at p95"
        )
        console.print(_fleets(report["fleets"]))
        per_s, per_cpu_s = report["dispatch_records_per_s"], report["dispatch_records_per_cpu_s"]
        console.print(f"one dispatcher passes on {per_s:,} records a second, {per_cpu_s:,} in a second of a processor,")
        console.print(
            f"{report['dispatch_records_per_transaction']} in a transaction; a bare copy with as many passes on "
            f"{report['copy_records_per_s']:,} and {report['copy_records_per_cpu_s']:,}"
        )
        console.print(f"machine: {json.dumps(report['machine'])}", soft_wrap=True)


def _loads(rows: list[dict[str, Any]]) -> Table:
    table = _table("workers", "dispatcher", "without", "p95 waits in s: urgent, high, normal")
    for row in rows:
        waits = ", ".join(f"{wait:.1f}" for wait in row["p95_waits_s"].values())
        with_, without = f"{row['load_at_bounds']:.0%}", f"{row['load_at_bounds_without']:.0%}"
        table.add_row(str(row["workers"]), with_, without, waits)
    return table


def _changes(rows: list[dict[str, Any]], choices: dict[str, int]) -> Table:
    table = _table("workers", "affinity", "without", "share", "reads", "choices")
    for row in rows:
        with_, without = row["changes_per_picture"], row["changes_per_picture_without_affinity"]
        shares = f"{row['lora_changes_share']:.0%}", f"{row['reads_share']:.0%}"
        table.add_row(
            str(row["workers"]), f"{with_:.2f}", f"{without:.2f}", *shares, f"{choices[str(row['workers'])]:,}"
        )
    return table


def _fleets(rows: list[dict[str, Any]]) -> Table:
    table = _table("dispatchers", "load", "urgent", "high", "normal", "urgent p99", "hop p50", "p99", "changes")
    for row in rows:
        waits = [row["p95_waits_s"].get(lane) for lane in ("urgent", "high", "normal")]
        hops = [row.get("hop_p50_s"), row.get("hop_p99_s")]
        figures = (_ms(figure) for figure in (*waits, row["urgent_p99_wait_s"], *hops))
        changes = f"{row['changes_per_picture']:.2f}"
        table.add_row(str(row["dispatchers"]), f"{row['load_at_bounds']:.0%}", *figures, changes)
    return table


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.0f}"


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
