"""Save device memory step by step after allocations fail: a ladder of rungs.

When an allocation fails, the engine climbs one rung and tries the same rows again. The highest rung is a batch of one
with every saving enabled; a job that fails there fails alone, as `out_of_memory`. After such a failure, and when the
engine is idle, the ladder is reset to rung 0.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import torch

from worker.engine.cost import Group
from worker.engine.pipeline import SdxlModel
from worker.engine.vae_tiles import set_tiles, tiles_of

# The smallest tiles that do not show; at the start, larger ones may have been chosen (`worker/memory_plan`).
_SMALLEST_TILE_PX = 256


class Rung(IntEnum):
    """The rungs of the ladder; the current one is exported as a metric."""

    NORMAL = 0
    CACHE_FREED = 1
    BATCH_HALVED = 2
    VAE_TILED = 3
    ATTENTION_SLICED = 4


class MemoryLadder:
    """The engine's position on the ladder; `rows_max` is the largest batch that the current rung allows."""

    def __init__(self, model: SdxlModel, rows_max: int) -> None:
        self._model = model
        self._rows_max = rows_max
        self.rows_max = rows_max
        self.rung = Rung.NORMAL
        self._tiles_px = {id(vae): tiles_of(vae) for vae in self._vaes()}

    def steps_differ(self, group: Group) -> bool:
        """Whether steps of the group run differently than at rung 0, so that results may differ bitwise."""
        smaller = group.padded(self.rows_max) != group.padded(self._rows_max)
        return smaller or self.rung is Rung.ATTENTION_SLICED

    @property
    def decodes_differ(self) -> bool:
        """Whether pictures are decoded differently than at rung 0, so that results may differ bitwise."""
        return self.rung >= Rung.VAE_TILED and any(tile != _SMALLEST_TILE_PX for tile in self._tiles_px.values())

    def climb(self, *, rows: int, decoding: bool) -> bool:
        """Climb to the next rung that helps; return False if there is none.

        Args:
            rows: those that the step may have had whose allocation failed.
            decoding: whether the allocation failed in a decode. A decode is always of one picture, so smaller batches
                do not help it.
        """
        if self.rung is Rung.NORMAL:
            self.rung = Rung.CACHE_FREED
        elif rows > 1 and not decoding:
            self.rows_max = rows // 2
            self.rung = max(self.rung, Rung.BATCH_HALVED)
        elif self.rung < Rung.VAE_TILED:
            for vae in self._vaes():
                set_tiles(vae, _SMALLEST_TILE_PX)
            self.rung = Rung.VAE_TILED
        elif self.rung < Rung.ATTENTION_SLICED and not decoding:
            self._each_unet("auto")
            self.rung = Rung.ATTENTION_SLICED
        else:
            return False
        _free(self._model)
        return True

    def reset(self) -> None:
        """Go back to rung 0."""
        if self.rung >= Rung.VAE_TILED:
            for vae in self._vaes():
                set_tiles(vae, self._tiles_px[id(vae)])
        if self.rung is Rung.ATTENTION_SLICED:
            self._each_unet(None)
        self.rung, self.rows_max = Rung.NORMAL, self._rows_max

    def _pipes(self) -> list[Any]:
        return [pipe for pipe in (self._model.base, self._model.refiner) if pipe is not None]

    def _vaes(self) -> list[Any]:
        return [pipe.vae for pipe in self._pipes()]

    def _each_unet(self, size: str | None) -> None:
        for pipe in self._pipes():
            if size is None:
                pipe.disable_attention_slicing()
            else:
                pipe.enable_attention_slicing(size)


@contextmanager
def one_error() -> Iterator[None]:
    """Raise every failed allocation as `torch.OutOfMemoryError`; those in cuBLAS and cuDNN are RuntimeErrors in torch.

    Raises:
        torch.OutOfMemoryError: an allocation failed in this block.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "_STATUS_ALLOC_FAILED" not in str(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


def _free(model: SdxlModel) -> None:
    model.forget_prompts()
    model.lora_cache.free()
    model.lora_cache.exchange.give_room()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
