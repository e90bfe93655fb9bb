"""How many samples a UNet call has, by card, precision and picture size. Pure.

Kernels are chosen by a call's shape, so pictures are the same in any company only if every call for them has the same
shape. Each is therefore padded to a size from the table below: the smallest that keeps the card busy. The size never
comes from a timing, which would let noise change bits.

A guided row takes two samples (negative and positive prompt), another one. The table counts pairs: `n` means that a
call holds `n` rows, 2n samples for guided ones and n for others, so that a row of either kind alone is padded as little
as possible.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from worker.job import Job

# The largest call that settings and manifests may ask for.
MAX_SAMPLES = 128
_PX_PER_LATENT = 8
_HALF = frozenset({"bfloat16", "float16"})

# By kind of device: (latent positions up to which it counts, rows of a call), the smallest pictures first. Larger
# pictures, other devices and other precisions get one row. 64 x 64 latents are a picture of 512², 96 x 96 one of 768².
# The figures for GPUs are derived from published ones (docs/scheduling.md), those for the CPU were measured.
_Entries = tuple[tuple[int, int], ...]
_GPUS: Mapping[str, _Entries] = {
    "4090": ((64 * 64, 4), (96 * 96, 2)),
    "L40S": ((64 * 64, 4), (96 * 96, 2)),
    "A100": ((64 * 64, 6), (96 * 96, 3)),
    "H100": ((64 * 64, 8), (96 * 96, 4)),
    "H200": ((64 * 64, 8), (96 * 96, 4)),
}
# Toy pictures only: from 128² on, a CPU is busy with one.
_CPU: _Entries = ((128, 4),)
# Chips of another size that share the name.
_OTHER_CHIPS = frozenset({"Laptop", "MIG", "D"})


@dataclass(frozen=True, slots=True)
class CallSizes:
    """The sizes of one worker's calls.

    Args:
        device: the card's name as the driver gives it, or `cpu`.
        dtype: the model's precision, as `bfloat16`.
        slots: the setting SLOTS: every call has twice as many samples, whatever the picture. None: the table decides.
    """

    device: str
    dtype: str
    slots: int | None = None

    def of(self, job: Job) -> int:
        """Return the samples of every call that `job` takes part in."""
        if job.call_samples is not None:
            return job.call_samples
        if self.slots is not None:
            return 2 * self.slots
        rows = self.rows(job.request.width, job.request.height)
        return 2 * rows if job.guided else rows

    def rows(self, width: int, height: int) -> int:
        """Return the guided pictures of a size in pixels that are drawn at a time."""
        if self.slots is not None:
            return self.slots
        return self._rows(-(-height // _PX_PER_LATENT) * -(-width // _PX_PER_LATENT))

    def _rows(self, positions: int) -> int:
        return next((rows for most, rows in self._entries() if positions <= most), 1)

    def _entries(self) -> _Entries:
        if self.device == "cpu":
            return _CPU
        words = set(re.split(r"[\s-]+", self.device))
        if self.dtype not in _HALF or words & _OTHER_CHIPS:
            return ()
        return next((entries for name, entries in _GPUS.items() if name in words), ())


def stated_samples(model: Mapping[str, object], *, guided: bool) -> int | None:
    """Return the samples of the calls that a manifest's picture was drawn with; None where their size varied.

    Args:
        model: the manifest's `model`. Version 1 of the worker wrote `slots`, half of what every call had.

    Raises:
        ValueError: the manifest states a size that no worker has.
    """
    if model.get("deterministic") is not True:
        return None
    if "call_samples" in model:
        samples = model["call_samples"]
    elif isinstance(model.get("slots"), int):
        samples = 2 * cast("int", model["slots"])
    else:
        return None
    if not isinstance(samples, int) or not 1 <= samples <= MAX_SAMPLES or (guided and samples % 2):
        raise ValueError(f"the manifest states calls of {samples!r} samples, which no worker has")
    return samples
