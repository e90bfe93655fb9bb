"""`models tiny` and `models train-demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.cli.flags import INT
from worker.cli.output import note_console, print_json
from worker.cli.train import training_progress


def tiny(
    directory: Annotated[Path, typer.Argument(help="Gets the folders base and refiner.")],
    seed: Annotated[int, typer.Option(min=0, max=INT, help="The same seed gives the same weights.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Write a toy SDXL: the real classes, random weights, a few MB, no download."""
    with note_console().status("importing torch and diffusers") as note:
        from devtools.models.tiny import write_tiny

        note.update("writing the toy models")
        write_tiny(directory, seed=seed)
    base, refiner = directory / "base", directory / "refiner"
    if as_json:
        print_json({"SDXL_MODEL_ID": str(base), "SDXL_REFINER_ID": str(refiner)})
    else:
        print(f"export SDXL_MODEL_ID={base}\nexport SDXL_REFINER_ID={refiner}")


def train_demo(
    directory: Annotated[Path, typer.Argument(help="Gets the folders base and refiner.")],
    seed: Annotated[
        int, typer.Option(min=0, max=INT, help="The same seed gives the same weights on the same kind of CPU.")
    ] = 0,
    vae_steps: Annotated[int | None, typer.Option(min=1, max=INT, help="Shorter than the recipe, to try it.")] = None,
    base_steps: Annotated[int | None, typer.Option(min=1, max=INT, help="As above.")] = None,
    refiner_steps: Annotated[int | None, typer.Option(min=1, max=INT, help="As above.")] = None,
    finish_steps: Annotated[int | None, typer.Option(min=1, max=INT, help="As above.")] = None,
    loosen_steps: Annotated[int | None, typer.Option(min=1, max=INT, help="As above.")] = None,
    polish_steps: Annotated[int | None, typer.Option(min=1, max=INT, help="As above.")] = None,
) -> None:
    """Train the demo SDXL from nothing, on pictures it draws itself: under two hours on two cores.

    A run that was cut off goes on after the last finished of its stages (VAE, base, refiner, finish, loosen, polish).
    """
    with note_console().status("importing torch and diffusers"):
        from devtools.demo_model import train
    with training_progress() as progress:
        train.train_demo(
            directory,
            seed=seed,
            vae_steps=vae_steps or train.VAE_STEPS,
            base_steps=base_steps or train.BASE_STEPS,
            refiner_steps=refiner_steps or train.REFINER_STEPS,
            finish_steps=finish_steps or train.FINISH_STEPS,
            loosen_steps=loosen_steps or train.LOOSEN_STEPS,
            polish_steps=polish_steps or train.POLISH_STEPS,
            progress=progress,
        )
    print(f"export SDXL_MODEL_ID={directory / 'base'}\nexport SDXL_REFINER_ID={directory / 'refiner'}")
