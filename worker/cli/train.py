"""`models train-lora`."""

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

# A terminal gets a bar; a log gets a line now and then.
_LINE_EVERY_STEPS = 100
_SMOOTHING = 0.98


def train_lora(
    dataset: Annotated[
        Path,
        typer.Option(
            "--dataset-name",
            "--dataset_name",
            help="Folder of pictures with captions: NAME.txt each, or metadata.jsonl.",
        ),
    ],
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "--output_dir", help="The folder that SDXL_LORA_PATH names for the worker.")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--pretrained-model-name-or-path",
            "--pretrained_model_name_or_path",
            help="Hub id, folder or single file; SDXL_MODEL_ID when not given.",
        ),
    ] = "",
    name: Annotated[
        str, typer.Option(help="What requests will call it; the dataset's folder name when not given.")
    ] = "",
    resolution: Annotated[
        int, typer.Option(min=64, max=4_096, help="Pictures are scaled and cropped to this square.")
    ] = 1024,
    batch_size: Annotated[int, typer.Option("--train-batch-size", "--train_batch_size", min=1, max=4_096)] = 1,
    epochs: Annotated[int, typer.Option("--num-train-epochs", "--num_train_epochs", min=1, max=INT)] = 100,
    max_steps: Annotated[
        int | None,
        typer.Option("--max-train-steps", "--max_train_steps", min=1, max=INT, help="Ends before the epochs do."),
    ] = None,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", "--learning_rate", callback=between(0.0, 10.0))
    ] = 1e-4,
    rank: Annotated[int, typer.Option(min=1, max=4_096, help="Of the added matrices; alpha is the same.")] = 16,
    accumulation: Annotated[
        int, typer.Option("--gradient-accumulation-steps", "--gradient_accumulation_steps", min=1, max=100_000)
    ] = 1,
    precision: Annotated[str, typer.Option("--mixed-precision", "--mixed_precision", help="no, fp16 or bf16.")] = "no",
    convolutions: Annotated[bool, typer.Option(help="Add to the UNet's convolutions too: new shapes.")] = False,
    text_encoders: Annotated[
        bool,
        typer.Option("--train-text-encoder", "--train_text_encoder", help="Add to both text encoders too: new words."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=LONG)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Train a LoRA on captioned pictures; under `accelerate launch -m worker` on several GPUs."""
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
        print(f"{file}: ask for it by the name {file.stem}")


@contextmanager
def training_progress() -> Iterator[Callable[[str, int, int, float], None]]:
    """Shows (stage, steps done, steps in all, loss)."""
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
