"""What the device does beside the steps for jobs whose turn is near: encode their prompts, and merge their LoRAs.

Only where work beside the steps costs them nothing (`Accelerator.overlaps`). Whatever a later step may read, or the
engine frees, must be preceded by `join`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch

from worker.engine.accelerator import Accelerator, Pending
from worker.engine.lora.exchange import LoraSet
from worker.engine.memory import one_error
from worker.engine.pipeline import SdxlModel
from worker.errors import RequestRejected
from worker.job import Job, Origin

# Not the one that pictures are decoded on: a job that begins need not wait for a decode.
_STREAM = "ahead"


class Ahead:
    """Used by the engine's thread only.

    Args:
        clock: seconds that nobody sets.
    """

    def __init__(self, model: SdxlModel, accelerator: Accelerator, clock: Callable[[], float]) -> None:
        self._model = model
        self._accelerator = accelerator
        self._clock = clock
        # By job: the encoding of its prompts, and what the host saw of it; None where it could not be done.
        self._encoded: dict[Origin, tuple[Pending[None], float] | None] = {}
        self._merging: Pending[bool] | None = None
        # Whether work was begun that the steps have not been made to wait for.
        self._open = False

    @property
    def overlaps(self) -> bool:
        """Whether there is any use in it; the refiner's and the base's weights must not move meanwhile."""
        return self._accelerator.overlaps and not self._model.refiner_offload

    def has_encoded(self, origin: Origin) -> bool:
        """Whether `encode` was called for a job."""
        return origin in self._encoded

    def encode(self, job: Job) -> None:
        """Encode the prompts of a job that will begin later; whatever goes wrong will do so again when it begins."""
        self._encoded[job.origin], before = None, self._clock()
        self._open = True
        with suppress(torch.OutOfMemoryError, RequestRejected), one_error():
            pending = self._accelerator.beside(lambda: self._model.encode(job), _STREAM)
            self._encoded[job.origin] = pending, self._clock() - before

    def merge(self, wanted: LoraSet | None) -> None:
        """Merge a slice of a set that is needed soon, once the one before is done; no step may use the second copy."""
        exchange = self._model.lora_cache.exchange
        if exchange.ready(wanted) or (self._merging is not None and not self._merging.is_done()):
            return
        self._open = True
        # The row's turn will come, and with it whatever there is to do about a lack of memory.
        with suppress(torch.OutOfMemoryError), one_error():
            self._merging = self._accelerator.beside(lambda: exchange.advance(wanted, None), _STREAM)

    def join(self) -> None:
        """Let all that is given to the device from now on come after this work; the host does not wait."""
        if self._open:
            self._accelerator.join(_STREAM)
            self._open = False

    def take(self, origin: Origin) -> float:
        """Let a job begin; return the seconds that its encoding has taken, as far as they are known."""
        self.join()
        encoded = self._encoded.pop(origin, None)
        if encoded is None:
            return 0.0
        pending, seconds = encoded
        return pending.seconds(seconds) if pending.is_done() else seconds

    def drop(self, origin: Origin) -> None:
        """Forget a job that ends, after which its LoRAs may be freed."""
        if origin in self._encoded:
            self.take(origin)
