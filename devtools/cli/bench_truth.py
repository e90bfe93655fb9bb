"""The `bench truth` verb: check that the demo model's pictures show what the prompts ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from worker.cli.flags import INT, between
from worker.cli.output import note_console, print_json


def truth(
    model: Annotated[
        Path | None, typer.Option(help="Folder written by train-demo (default: the demo model of this checkout).")
    ] = None,
    prompts: Annotated[
        int,
        typer.Option(metavar="N", callback=between(12, INT), help="Number of prompts, each with a seed of its own."),
    ] = 200,
    seed: Annotated[int, typer.Option(metavar="N", callback=between(0, INT), help="Seed of the random prompts.")] = 0,
    out: Annotated[Path, typer.Option(help="File for the JSON report.")] = Path("out/truth.json"),
    sheet: Annotated[
        Path | None, typer.Option(help="File for a PNG of the first 40 pictures with their prompts.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
) -> None:
    """Ask the demo model for shapes, colours and backgrounds, and check the pixels of its pictures.

    The pictures are drawn by the worker's engine. Exit code 1: a target is missed.
    """
    with note_console().status("importing torch and diffusers") as note:
        import torch

        from devtools.bench.equality.draw import WatchedModel
        from devtools.bench.quality.sheet import contact_sheet
        from devtools.bench.quality.truth import truth as ask
        from devtools.models.shipped import DEMO
        from worker.models.load import load_base

        base = load_base(str((model or DEMO) / "base"), dtype=torch.float32, device="cpu")
        note.update(f"drawing {prompts} pictures and those of the other checks")
        report, pictures = ask(WatchedModel(base), prompts, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    if sheet is not None:
        contact_sheet(list(zip(pictures, report["asked"], strict=True))[:40]).save(sheet)
    if as_json:
        print_json(report)
    else:
        print("\n".join(_lines(report)))
    if not report["passed"]:
        raise typer.Exit(1)


def _lines(report: dict[str, Any]) -> list[str]:
    shares = ", ".join(f"{name} {share:.1%}" for name, share in report["share"].items())
    negatives = (
        f"{name} not named: {case['without']:.0%} show {case['named']}; with it as negative prompt {case['with']:.0%}"
        for name, case in report["negative_prompt"].items()
    )
    guidance = report["guidance"]
    return [
        f"{report['right']} of {report['prompts']} right in shape, colour and background ({shares})",
        *negatives,
        *(
            f"guidance {scale}: {share:.1%} right; colour not named: {guidance['commonest_colour_share'][scale]:.0%}"
            " show the most frequent one"
            for scale, share in guidance["right_share"].items()
        ),
        f"another seed: {report['seeds']['right_share']:.1%} right, "
        f"{report['seeds']['another_picture_share']:.0%} another picture",
        "every target is met" if report["passed"] else "a target is missed",
    ]
