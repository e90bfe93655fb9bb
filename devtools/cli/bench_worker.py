"""The `bench worker` verb: the whole worker beside what a user would take instead."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from worker.cli.output import note_console, print_json, result_console
from worker.client.errors import CommandError

REPORT = Path("out/bench/worker.json")


def worker(
    only: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="Run this part alone; may be repeated. (default: all)")
    ] = None,
    repeats: Annotated[
        int, typer.Option(metavar="N", min=1, max=100, help="Pairs of each figure; 5 are the fewest to compare.")
    ] = 5,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the figures as those that later runs are compared with.")
    ] = False,
    out: Annotated[Path, typer.Option(help="File for the JSON report, written as it grows.")] = REPORT,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON report instead of a table.")] = False,
) -> None:
    """Measure the worker beside a bare diffusers loop, FastStream and a plain worker, on real Kafka and S3.

    Shows medians of pairs that are measured in turns, their aims, and what
    has moved since the committed figures. Exit code 1: a part failed.
    """
    # One thread a process, children included: torch's threads slow each other down.
    os.environ["OMP_NUM_THREADS"] = "1"
    from devtools.bench.worker import figures, show
    from devtools.bench.worker.noise import LEAST_PAIRS
    from devtools.bench.worker.parts import PARTS
    from devtools.bench.worker.report import run, values_of
    from devtools.demo.stage import forget_real_services
    from worker.telemetry import logs

    if keep and repeats < LEAST_PAIRS:
        raise CommandError(f"--keep: figures of fewer than {LEAST_PAIRS} pairs are too few to compare with")
    forget_real_services()
    # Some parts run the worker's own intake in this process; stdout is for the report.
    logs.configure("ERROR", "auto")
    kind, console = figures.machine_kind(), note_console()

    with console.status("") as note:

        def say(part: str, report: Mapping[str, Any]) -> None:
            note.update(f"measuring: {part}")
            _store(out, report)

        report = run(_chosen(only or [], PARTS), repeats, kind, figures.load(kind), say)
    _store(out, report)
    if keep:
        console.print(f"kept in {figures.keep(kind, values_of(report))}", soft_wrap=True)
    if as_json:
        print_json(report)
    else:
        shown = result_console()
        if not shown.is_terminal:
            shown.width = show.WIDTH
        shown.print(show.table(report), "", sep="\n")
        for line in show.lines(report):
            shown.print(line, soft_wrap=True)
    if report["failed"]:
        raise typer.Exit(1)


def _chosen(names: list[str], parts: Mapping[str, str]) -> Mapping[str, str]:
    """The parts of these names, all where there are none. Raises CommandError."""
    for name in names:
        if name not in parts:
            raise CommandError(f"--only: there is no {name!r}; known: {', '.join(parts)}")
    return {name: module for name, module in parts.items() if not names or name in names}


def _store(out: Path, report: Mapping[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
