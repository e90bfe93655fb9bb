"""What a worker's settings and model files ask of a card; no weights are read, and torch is not needed."""

from __future__ import annotations

from pathlib import Path

from worker.call_sizes import UNPADDED_ROWS
from worker.lora_folder import is_lora_file
from worker.memory_plan.plan import Models, Wishes
from worker.memory_plan.weights import SDXL_BASE, SDXL_REFINER, read_weights
from worker.memory_plan.working import PX_PER_LATENT
from worker.settings import Settings


def models_of(settings: Settings, dtype: str) -> Models:
    """The models that the settings name, by the headers of their files.

    Raises:
        ModelLoadError: a model is here and not whole.
    """
    half = dtype != "float32"
    base = read_weights(settings.sdxl_model_id, half=half, assumed=SDXL_BASE)
    if settings.sdxl_refiner_id is None:
        return Models(base)
    return Models(base, read_weights(settings.sdxl_refiner_id, half=half, assumed=SDXL_REFINER))


def wishes_of(settings: Settings, dtype: str) -> Wishes:
    """What the settings ask of a card; `dtype` is what DTYPE comes to on it."""
    sizes = _lora_sizes(settings.lora_dir)
    return Wishes(
        dtype=dtype,
        refiner_offload=settings.refiner_offload,
        max_pixels=settings.max_pixels,
        tile=settings.vae_tile_px,
        slots=settings.slots,
        rows=None if settings.deterministic else settings.slots or UNPADDED_ROWS,
        loras=bool(sizes),
        lora_bytes=min(sum(sizes[: settings.lora_cache_size]), settings.lora_cache_mb << 20),
        largest_lora=max(sizes, default=0),
        compiled=_compiled(settings),
    )


def _compiled(settings: Settings) -> tuple[int, ...]:
    """The latent positions of the pictures whose steps are compiled, where there is a GPU."""
    if settings.compile == "off" or not settings.deterministic:
        return ()
    positions = [height * width // PX_PER_LATENT**2 for width, height in settings.sizes_compiled]
    return tuple(positions * settings.compile_chunks)


def _lora_sizes(folder: Path | None) -> list[int]:
    """The sizes of the folder's LoRAs, the largest first."""
    if folder is None:
        return []
    try:
        return sorted((path.stat().st_size for path in folder.iterdir() if is_lora_file(path)), reverse=True)
    except OSError:
        # What is wrong with it is told by who opens the LoRAs.
        return []
