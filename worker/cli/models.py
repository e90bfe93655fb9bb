"""The `models` verbs: download models or train a LoRA; in a checkout also write toy models and train the demo model."""

from __future__ import annotations

import sys
from typing import Annotated

import structlog
import typer

from worker.cli.lazy import VerbGroup
from worker.cli.output import print_json
from worker.errors import SettingsError
from worker.settings import Settings, load_settings


class ModelVerbs(VerbGroup):
    """Each verb of `models`, mapped to its "module:attribute" and to its line in the list of commands."""

    verbs = {  # noqa: RUF012 - a table, never changed
        "pull": ("worker.cli.models:pull", "Download the models of SDXL_MODEL_ID and SDXL_REFINER_ID."),
        "train-lora": ("worker.cli.train:app", "Train a LoRA on captioned pictures."),
    }
    developer_verbs = {  # noqa: RUF012
        "tiny": ("devtools.cli.models:tiny", "Write a toy SDXL with random weights (a few MB)."),
        "full": ("devtools.cli.models:full", "Write a full-size SDXL with random weights (11 GB)."),
        "train-demo": ("devtools.cli.models:train_demo", "Train the demo SDXL from scratch."),
    }


app = typer.Typer(cls=ModelVerbs, no_args_is_help=True, add_completion=False)


@app.callback()
def top() -> None:
    """Download the configured models, or train a LoRA."""


def _make_lora_folder(settings: Settings) -> None:
    """Raises SettingsError: it can't be made."""
    folder = settings.lora_dir
    if folder is None or folder.exists():
        return
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise SettingsError(f"SDXL_LORA_PATH: the folder {folder} cannot be made: {error.strerror}") from None
    print(f"{folder}: made, and empty (SDXL_LORA_PATH)", file=sys.stderr)


def pull(
    full: Annotated[
        bool, typer.Option("--full", help="Download full precision regardless of DTYPE and DEVICE.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per model.")] = False,
) -> None:
    """Download the models of SDXL_MODEL_ID and SDXL_REFINER_ID ahead of the first start, and verify every file.

    An interrupted download goes on where it ended. The folder of SDXL_LORA_PATH is made where it is missing, so that a
    worker starts on a new volume too.
    """
    settings = load_settings()
    _make_lora_folder(settings)
    from worker.models.pull import loads_half
    from worker.models.pull import pull as pull_models

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    model_ids = [name for name in (settings.sdxl_model_id, settings.sdxl_refiner_id) if name is not None]
    for files in pull_models(model_ids, half=not full and loads_half(settings.dtype, settings.device)):
        if as_json:
            place = {"model_id": files.model_id, "path": str(files.root), "variant": files.variant}
            print_json(place | {"size_bytes": files.size_bytes, "commit": files.commit})
        else:
            size = f"{files.size_bytes / 1e9:.2f} GB of weights"
            print(f"{files.model_id}: {size}{f' ({files.variant})' if files.variant else ''} in {files.root}")
            if files.commit is not None and "@" not in files.model_id:
                print(f"  to stay with this version, pin it: {files.model_id}@{files.commit}")
