"""The `bench lora` verb: check that `models train-lora` teaches the demo model what the pictures show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from worker.cli.output import note_console, print_json
from worker.cli.train import training_progress


def lora(
    model: Annotated[
        Path | None, typer.Option(help="Folder written by train-demo (default: the demo model of this checkout).")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for lora.json, the pictures and the LoRAs.")] = Path("out/lora"),
    sheet: Annotated[Path | None, typer.Option(help="File for a PNG of pictures before and after.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
) -> None:
    """Teach the demo model a new shape and a new style, and measure both in the pixels before and after.

    Exit code 1: the shape or the style was not learnt.
    """
    with note_console().status("importing torch and diffusers"):
        from devtools.bench.quality.lora import LESSONS, RECIPE, examine, teach
        from devtools.bench.quality.sheet import contact_sheet
        from devtools.models.shipped import DEMO
    base = (model or DEMO) / "base"
    with training_progress() as progress:
        for lesson in LESSONS:
            teach(base, out, lesson, RECIPE, progress)
    report, pictures = examine(base, out / "loras")
    (out / "lora.json").write_text(json.dumps(report, indent=1) + "\n")
    if sheet is not None:
        contact_sheet(pictures).save(sheet)
    if as_json:
        print_json(report)
    else:
        for name in ("moon", "sepia", "both"):
            case = report[name]
            print(f"{name}: {case['before']:.0%} before, {case['after']:.0%} with {case['loras']}")
    if not report["passed"]:
        raise typer.Exit(1)
