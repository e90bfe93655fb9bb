"""Which settings would make a worker fit a card: the smallest change that does. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from worker.memory_plan.plan import Models, Plan, Wishes, make_plan
from worker.memory_plan.working import DTYPE_BYTES

_SMALLER_PIXELS = (1024 * 1024, 768 * 768, 512 * 512)
# What a person gives up least by comes first; among equally many changes, earlier ones are preferred.
_Change = tuple[str, str]


def cure(models: Models, wishes: Wishes, plan: Plan) -> str | None:
    """Return the settings that would fit, such as `VAE_TILE_PX=512 and SDXL_REFINER_ID=none`; None where none do."""
    changes = list(_changes(models, wishes))
    for number in range(1, len(changes) + 1):
        for some in combinations(changes, number):
            names = [name for name, _ in some]
            if len(set(names)) < len(names):
                continue
            changed = _applied(models, wishes, some, plan.card.dtype)
            if make_plan(*changed, plan.card).fits:
                return " and ".join(f"{name}={value}" for name, value in some)
    return None


def _changes(models: Models, wishes: Wishes) -> Iterator[_Change]:
    if wishes.tile in ("none", "512"):
        yield "VAE_TILE_PX", "auto"
    if wishes.lora_bytes:
        yield "LORA_CACHE_SIZE", "1"
    if models.refiner is not None and not wishes.refiner_offload:
        yield "REFINER_OFFLOAD", "true"
    if wishes.slots is not None and wishes.slots > 1:
        yield "SLOTS", "1"
    elif wishes.rows is not None:
        yield "DETERMINISTIC", "true"
    if DTYPE_BYTES[wishes.dtype] > DTYPE_BYTES["float16"]:
        yield "DTYPE", "auto"
    for pixels in _SMALLER_PIXELS:
        if pixels < wishes.max_pixels:
            yield "MAX_PIXELS", str(pixels)
    if models.refiner is not None:
        yield "SDXL_REFINER_ID", "none"


def _applied(models: Models, wishes: Wishes, changes: tuple[_Change, ...], auto_dtype: str) -> tuple[Models, Wishes]:
    for name, value in changes:
        match name:
            case "VAE_TILE_PX":
                wishes = replace(wishes, tile=value)
            case "LORA_CACHE_SIZE":
                wishes = replace(wishes, lora_bytes=wishes.largest_lora)
            case "REFINER_OFFLOAD":
                wishes = replace(wishes, refiner_offload=True)
            case "SLOTS":
                wishes = replace(wishes, slots=1, rows=None if wishes.rows is None else 1)
            case "DETERMINISTIC":
                wishes = replace(wishes, rows=None)
            case "DTYPE":
                wishes = replace(wishes, dtype=auto_dtype)
            case "MAX_PIXELS":
                wishes = replace(wishes, max_pixels=int(value))
            case "SDXL_REFINER_ID":
                models = Models(models.base)
    return models, wishes
