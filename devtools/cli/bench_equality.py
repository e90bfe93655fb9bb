"""The `bench equality` verb: check that a request gives the same picture whatever else is on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.cli.flags import INT, between
from worker.cli.output import note_console, print_json


def equality(
    count: Annotated[
        int,
        typer.Option(
            metavar="N", callback=between(1, INT), help="Number of random jobs, each drawn alone and in a batch."
        ),
    ] = 200,
    seed: Annotated[int, typer.Option(metavar="N", callback=between(0, INT), help="Seed of the random jobs.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for equality.json.")] = Path("out/bench"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
) -> None:
    """Check that random jobs give the same pixels alone, in a batch and with diffusers' pipelines.

    The jobs are drawn on the toy model. Exit code 1: a picture differs.
    """
    from devtools.bench.equality.compare import run

    result = run(count, seed, out)
    if as_json:
        print_json(result)
    else:
        print(
            f"{result['jobs']} jobs alone and in a batch: {result['differing_pixels']} differing pixels\n"
            f"{result['diffusers_jobs']} jobs against diffusers: largest difference {result['diffusers_max_abs_diff']}"
        )
    note_console().print(f"{out / 'equality.json'}, {result['seconds']:.0f} s")
    if result["differing_pixels"] or result["differing_latents"] or result["diffusers_max_abs_diff"]:
        raise typer.Exit(1)
