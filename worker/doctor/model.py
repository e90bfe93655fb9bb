"""Whether the models' files are on this machine and complete; no weights are loaded and nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator

from worker.doctor.finding import Finding, failed, ok, skipped, warning
from worker.errors import ModelLoadError
from worker.settings import Settings

_ABSENT = "is not on this machine"


def check(settings: Settings) -> Iterator[Finding]:
    """Look at the base, the refiner and the folder of LoRAs."""
    # Before the hub's client is imported: what is missing is told, and not fetched.
    offline_wanted = bool(os.environ.get("HF_HUB_OFFLINE"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    yield _look("model", settings.sdxl_model_id, settings, offline_wanted)
    if settings.sdxl_refiner_id is None:
        yield skipped("refiner", "none: requests with high_quality are refused")
    else:
        yield _look("refiner", settings.sdxl_refiner_id, settings, offline_wanted)
    if settings.lora_dir is not None:
        count = sum(1 for _ in settings.lora_dir.glob("*.safetensors"))
        if count:
            yield ok("LoRAs", f"{count} in {settings.lora_dir}")
        else:
            yield warning("LoRAs", f"none in {settings.lora_dir}", "put .safetensors files there, or unset the path")


def weights_bytes(settings: Settings) -> int | None:
    """The size of all the weights that will be loaded; None where they are not all here."""
    from worker.models.pull import loads_half, locate

    os.environ["HF_HUB_OFFLINE"] = "1"
    half = loads_half(settings.dtype, settings.device)
    try:
        names = [name for name in (settings.sdxl_model_id, settings.sdxl_refiner_id) if name is not None]
        return sum(locate(name, half=half).size_bytes for name in names)
    except (ModelLoadError, OSError):
        return None


def _look(subject: str, model_id: str, settings: Settings, offline_wanted: bool) -> Finding:
    from worker.models.pull import loads_half, locate

    try:
        files = locate(model_id, half=loads_half(settings.dtype, settings.device))
    except ModelLoadError as error:
        if _ABSENT in str(error):
            found = failed if offline_wanted else warning
            when = "HF_HUB_OFFLINE is set" if offline_wanted else "the first start downloads it, which takes minutes"
            return found(
                subject, f"{model_id} {_ABSENT}: {when}", "run `sdxl-worker models pull`, or name a folder or file"
            )
        variable = "SDXL_MODEL_ID" if subject == "model" else "SDXL_REFINER_ID"
        cure = f"put {variable} right, or fetch it anew with `sdxl-worker models pull`"
        return failed(subject, str(error), cure)
    except OSError as error:
        return failed(subject, f"{model_id} cannot be read: {error.strerror}", "see that this user may read it")
    size = f"{files.size_bytes / 1e9:.2f} GB" if files.size_bytes >= 1e8 else f"{files.size_bytes / 1e6:.0f} MB"
    variant = f" ({files.variant})" if files.variant else ""
    return ok(subject, f"{model_id}: complete, {size} of weights{variant}; their contents were not read")
