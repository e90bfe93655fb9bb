"""The `models train-lora` verb."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from worker.cli.flags import INT, LONG, between
from worker.cli.output import note_console, print_json
from worker.client.errors import CommandError

# A terminal shows a bar; a log gets a line every so many steps.
_LINE_EVERY_STEPS = 100
_SMOOTHING = 0.98

# Help shows each panel as a table of its own; long names of options need a panel with short texts.
_DATA, _MODEL, _TRAINING = "Data", "Base model: Hub id, folder or single file", "Training"
_BATCH, _TARGETS = "Batch size", "Trained layers"


def _with_dashes(option: str) -> str:
    """Accept the underscores of diffusers' training scripts: `--dataset_name` is `--dataset-name`."""
    return option.replace("_", "-")


app = typer.Typer(add_completion=False, context_settings={"token_normalize_func": _with_dashes})


@app.command("train-lora")
def train_lora(
    dataset: Annotated[
        Path,
        typer.Option(
            "--dataset-name",
            help="Folder of pictures with captions in NAME.txt files or metadata.jsonl.",
            rich_help_panel=_DATA,
        ),
    ],
    output_dir: Annotated[
        Path, typer.Option(help="Folder for the LoRA; the worker's SDXL_LORA_PATH.", rich_help_panel=_DATA)
    ],
    model: Annotated[
        str,
        typer.Option(
            "--pretrained-model-name-or-path",
            metavar="MODEL",
            help="Default: SDXL_MODEL_ID.",
            show_default=False,
            rich_help_panel=_MODEL,
        ),
    ] = "",
    name: Annotated[
        str,
        typer.Option(
            help="Name of the LoRA in requests (default: the dataset folder's name).",
            show_default=False,
            rich_help_panel=_DATA,
        ),
    ] = "",
    resolution: Annotated[
        int,
        typer.Option(
            metavar="PX",
            min=64,
            max=4_096,
            help="Pictures are scaled and cropped to this square.",
            rich_help_panel=_TRAINING,
        ),
    ] = 1024,
    batch_size: Annotated[
        int,
        typer.Option(
            "--train-batch-size",
            metavar="N",
            callback=between(1, 4_096),
            help="Pictures per batch.",
            rich_help_panel=_BATCH,
        ),
    ] = 1,
    epochs: Annotated[
        int,
        typer.Option(
            "--num-train-epochs",
            metavar="N",
            callback=between(1, INT),
            help="Passes over the dataset.",
            rich_help_panel=_TRAINING,
        ),
    ] = 100,
    max_steps: Annotated[
        int | None,
        typer.Option(
            "--max-train-steps",
            metavar="N",
            callback=between(1, INT),
            help="Stop after N steps, even within an epoch.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    learning_rate: Annotated[
        float,
        typer.Option(metavar="RATE", callback=between(0.0, 10.0), help="Learning rate.", rich_help_panel=_TRAINING),
    ] = 1e-4,
    rank: Annotated[
        int,
        typer.Option(
            metavar="N",
            callback=between(1, 4_096),
            help="Rank of the added matrices, and their alpha.",
            rich_help_panel=_TRAINING,
        ),
    ] = 16,
    accumulation: Annotated[
        int,
        typer.Option(
            "--gradient-accumulation-steps",
            metavar="N",
            callback=between(1, 100_000),
            help="Batches per weight update.",
            rich_help_panel=_BATCH,
        ),
    ] = 1,
    precision: Annotated[
        str, typer.Option("--mixed-precision", metavar="TYPE", help="no, fp16 or bf16.", rich_help_panel=_TRAINING)
    ] = "no",
    convolutions: Annotated[
        bool,
        typer.Option(
            help="Also train the UNet's convolutions (new shapes).", show_default=False, rich_help_panel=_TARGETS
        ),
    ] = False,
    text_encoders: Annotated[
        bool,
        typer.Option(
            "--train-text-encoder", help="Also train both text encoders (new words).", rich_help_panel=_TARGETS
        ),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(metavar="N", callback=between(0, LONG), help="Seed of the training.", rich_help_panel=_TRAINING),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Train a LoRA on captioned pictures.

    `accelerate launch -m worker models train-lora` uses several GPUs. Options may
    also be written with underscores, as in diffusers' training scripts.
    """
    if not dataset.is_dir():
        raise typer.BadParameter(f"{dataset} is not a folder")
    # Now, and not after hours of training.
    output_dir.mkdir(parents=True, exist_ok=True)
    if not os.access(output_dir, os.W_OK):
        raise typer.BadParameter(f"{output_dir} cannot be written to")
    with note_console().status("importing torch and diffusers"):
        from worker.training import lora
    from worker.settings import load_settings

    recipe = lora.Recipe(
        resolution=resolution,
        rank=rank,
        batch_size=batch_size,
        epochs=epochs,
        max_steps=max_steps,
        learning_rate=learning_rate,
        gradient_accumulation=accumulation,
        mixed_precision=precision,
        convolutions=convolutions,
        text_encoders=text_encoders,
        seed=seed,
    )
    settings = load_settings()
    try:
        with training_progress() as progress:
            file = lora.train_lora(
                model or settings.sdxl_model_id,
                dataset,
                output_dir / f"{name or dataset.resolve().name}.safetensors",
                recipe,
                device=settings.device,
                progress=partial(progress, "lora"),
            )
    except lora.TrainingError as error:
        raise CommandError(str(error)) from error
    if as_json:
        print_json({"lora": file.stem, "path": str(file), "bytes": file.stat().st_size})
    else:
        print(f"{file}: requests use it by the name {file.stem}")


@contextmanager
def training_progress() -> Iterator[Callable[[str, int, int, float], None]]:
    """Yield a function that shows the progress of training: (stage, steps done, steps in all, loss)."""
    console = note_console()
    columns = (TextColumn("{task.description:<8}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
    more = (TextColumn("loss {task.fields[loss]:.4f}"), TimeElapsedColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    smooth: dict[str, float] = {}
    with Progress(*columns, *more, console=console, disable=not console.is_terminal) as bars:

        def show(stage: str, done: int, total: int, loss: float) -> None:
            smooth[stage] = _SMOOTHING * smooth.get(stage, loss) + (1 - _SMOOTHING) * loss
            if not console.is_terminal:
                if done % _LINE_EVERY_STEPS == 0 or done == total:
                    console.print(f"{stage} {done}/{total} loss {smooth[stage]:.4f}")
                return
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, loss=loss)
            bars.update(tasks[stage], completed=done, loss=smooth[stage])

        yield show
