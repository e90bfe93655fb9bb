"""`models`: fetch them, or make them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer

from worker.cli.output import note_console, print_json
from worker.cli.train import train_demo, train_lora
from worker.settings import Settings, load_settings

app = typer.Typer(no_args_is_help=True, help="Fetch the configured models, write toy ones, or train.")
app.command()(train_demo)
app.command()(train_lora)


@app.command()
def tiny(
    directory: Annotated[Path, typer.Argument(help="Gets the folders base and refiner.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Write a toy SDXL: the real classes, random weights, a few MB, no download."""
    with note_console().status("importing torch and diffusers") as note:
        from worker.models.tiny import write_tiny

        note.update("writing the toy models")
        write_tiny(directory, seed=seed)
    base, refiner = directory / "base", directory / "refiner"
    if as_json:
        print_json({"SDXL_MODEL_ID": str(base), "SDXL_REFINER_ID": str(refiner)})
    else:
        print(f"export SDXL_MODEL_ID={base}\nexport SDXL_REFINER_ID={refiner}")


@app.command()
def pull(
    full: Annotated[bool, typer.Option("--full", help="Full precision, whatever DTYPE and DEVICE say.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per model.")] = False,
) -> None:
    """Fetch SDXL_MODEL_ID and SDXL_REFINER_ID ahead of time, with progress."""
    settings = load_settings()
    from worker.models.pull import pull as pull_models

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    model_ids = [name for name in (settings.sdxl_model_id, settings.sdxl_refiner_id) if name is not None]
    for files in pull_models(model_ids, half=not full and loads_half(settings)):
        if as_json:
            place = {"model_id": files.model_id, "path": str(files.root), "variant": files.variant}
            print_json(place | {"size_bytes": files.size_bytes})
        else:
            size = f"{files.size_bytes / 1e9:.2f} GB of weights"
            print(f"{files.model_id}: {size}{f' ({files.variant})' if files.variant else ''} in {files.root}")


def loads_half(settings: Settings) -> bool:
    """Whether a worker with these settings loads half precision; with `auto`, a GPU is assumed."""
    if settings.dtype == "auto":
        return settings.device != "cpu"
    return settings.dtype != "float32"
