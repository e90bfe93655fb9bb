"""What to do when the device runs out of memory, one rung at a time.

A rung is taken when an allocation fails; the same rows are then tried again. The last rung is a batch of one with
every saving on: a job that fails there fails alone (`out_of_memory`). Then, and when the engine is idle, it starts
over.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import torch

from worker.engine.pipeline import SdxlModel


class Rung(IntEnum):
    """How far up the ladder the engine stands; a metric."""

    NORMAL = 0
    CACHE_FREED = 1
    BATCH_HALVED = 2
    VAE_SLICED = 3
    ATTENTION_SLICED = 4


class MemoryLadder:
    """Climbs under `torch.OutOfMemoryError`. `slots` is the batch size that the current rung allows."""

    def __init__(self, model: SdxlModel, slots: int) -> None:
        self._model = model
        self._slots = slots
        self.slots = slots
        self.rung = Rung.NORMAL

    @property
    def steps_differ(self) -> bool:
        """Whether steps are run in another way than on the ground, so that their bits may be others."""
        return self.slots != self._slots or self.rung is Rung.ATTENTION_SLICED

    @property
    def decodes_differ(self) -> bool:
        """Whether pictures are decoded in another way than on the ground."""
        return self.rung >= Rung.VAE_SLICED

    def climb(self, *, decoding: bool) -> bool:
        """Take the next saving that helps; False when there is none left.

        Args:
            decoding: what failed is a decode. It is always of one picture, so smaller batches would not help it.
        """
        if self.rung is Rung.NORMAL:
            self.rung = Rung.CACHE_FREED
        elif self.slots > 1 and not decoding:
            self.slots //= 2
            self.rung = max(self.rung, Rung.BATCH_HALVED)
        elif self.rung < Rung.VAE_SLICED:
            self._each_vae("enable_slicing", "enable_tiling")
            self.rung = Rung.VAE_SLICED
        elif self.rung < Rung.ATTENTION_SLICED and not decoding:
            self._each_unet("auto")
            self.rung = Rung.ATTENTION_SLICED
        else:
            return False
        _free(self._model)
        return True

    def reset(self) -> None:
        """Go back to the ground; a no-op there."""
        if self.rung >= Rung.VAE_SLICED:
            self._each_vae("disable_slicing", "disable_tiling")
        if self.rung is Rung.ATTENTION_SLICED:
            self._each_unet(None)
        self.rung, self.slots = Rung.NORMAL, self._slots

    def _pipes(self) -> list[Any]:
        return [pipe for pipe in (self._model.base, self._model.refiner) if pipe is not None]

    def _each_vae(self, *calls: str) -> None:
        for pipe in self._pipes():
            for call in calls:
                getattr(pipe.vae, call)()

    def _each_unet(self, size: str | None) -> None:
        for pipe in self._pipes():
            if size is None:
                pipe.disable_attention_slicing()
            else:
                pipe.enable_attention_slicing(size)


@contextmanager
def one_error() -> Iterator[None]:
    """Make one exception of the two that torch has: cuBLAS and cuDNN report their own failed allocations.

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
    model.adapters.free()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
