"""The `models tiny`, `models full` and `models train-demo` verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from worker.cli.flags import INT, between
from worker.cli.output import note_console, print_json
from worker.cli.train import training_progress


def tiny(
    directory: Annotated[Path, typer.Argument(help="Folder in which base/ and refiner/ are written.")],
    seed: Annotated[int, typer.Option(metavar="N", callback=between(0, INT), help="Seed of the random weights.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Write a toy SDXL: the real classes with random weights, a few MB, without a download."""
    with note_console().status("importing torch and diffusers") as note:
        from devtools.models.tiny import write_tiny

        note.update("writing the toy models")
        write_tiny(directory, seed=seed)
    base, refiner = directory / "base", directory / "refiner"
    if as_json:
        print_json({"SDXL_MODEL_ID": str(base), "SDXL_REFINER_ID": str(refiner)})
    else:
        print(f"export SDXL_MODEL_ID={base}\nexport SDXL_REFINER_ID={refiner}")


def full(
    directory: Annotated[Path, typer.Argument(help="Folder in which base/ and refiner/ are written.")],
    seed: Annotated[int, typer.Option(metavar="N", callback=between(0, INT), help="Seed of the random weights.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Write a full-size SDXL: base and refiner of the real architecture with random weights, bf16, 11 GB.

    Without a download, in about two minutes. Its pictures mean nothing; its times and memory are those of any SDXL.
    """
    with note_console().status("importing torch and diffusers") as note:
        from devtools.models.full import write_full

        write_full(directory, seed=seed, say=lambda file: note.update(f"writing {file}"))
    base, refiner = directory / "base", directory / "refiner"
    if as_json:
        print_json({"SDXL_MODEL_ID": str(base), "SDXL_REFINER_ID": str(refiner)})
    else:
        print(f"export SDXL_MODEL_ID={base}\nexport SDXL_REFINER_ID={refiner}")


def _stage_steps(stage: str) -> Any:
    return typer.Option(
        metavar="N", callback=between(1, INT), help=f"Steps of the {stage} stage (default: the recipe's)."
    )


def train_demo(
    directory: Annotated[Path, typer.Argument(help="Folder in which base/ and refiner/ are written.")],
    seed: Annotated[
        int,
        typer.Option(metavar="N", callback=between(0, INT), help="Seed; weights are the same on the same kind of CPU."),
    ] = 0,
    vae_steps: Annotated[int | None, _stage_steps("VAE")] = None,
    base_steps: Annotated[int | None, _stage_steps("base")] = None,
    refiner_steps: Annotated[int | None, _stage_steps("refiner")] = None,
    finish_steps: Annotated[int | None, _stage_steps("finish")] = None,
    loosen_steps: Annotated[int | None, _stage_steps("loosen")] = None,
    polish_steps: Annotated[int | None, _stage_steps("polish")] = None,
) -> None:
    """Train the demo SDXL from scratch on generated pictures of shapes: under two hours on two cores.

    The stages are VAE, base, refiner, finish, loosen and polish. A run that was
    interrupted continues after the last finished stage.
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
