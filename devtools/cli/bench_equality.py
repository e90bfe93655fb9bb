"""`bench equality`: does the same request give the same picture, whatever else is on the device?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.cli.flags import INT
from worker.cli.output import note_console, print_json


def equality(
    count: Annotated[int, typer.Option(min=1, max=INT, help="Random jobs, each alone and in company.")] = 200,
    seed: Annotated[int, typer.Option(min=0, max=INT, help="The same seed gives the same jobs.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for equality.json.")] = Path("out/bench"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
) -> None:
    """Draw random jobs on the toy model alone, in company, and with diffusers' own pipelines."""
    from devtools.bench.equality.compare import run

    result = run(count, seed, out)
    if as_json:
        print_json(result)
    else:
        print(
            f"{result['jobs']} jobs alone and in company: {result['differing_pixels']} differing pixels\n"
            f"{result['diffusers_jobs']} jobs against diffusers: largest difference {result['diffusers_max_abs_diff']}"
        )
    note_console().print(f"{out / 'equality.json'}, {result['seconds']:.0f} s")
    if result["differing_pixels"] or result["differing_latents"] or result["diffusers_max_abs_diff"]:
        raise typer.Exit(1)
