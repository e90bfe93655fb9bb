"""DoRA (Liu et al. 2024, arXiv:2402.09353): a difference of another kind, and the magnitudes of the changed weights.

The magnitude is divided by the norm of the weights with the whole difference, whatever the LoRA's weight is; the weight
then goes straight from the model's own weights (0) to the DoRA's (1) and beyond. ComfyUI and A1111 do the same. PEFT
takes the norm of `W + w · delta`, and LyCORIS weighs the magnitudes alone; all of them agree at weight 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from worker.engine.lora.kinds import Kind
from worker.engine.lora.kinds.tensors import moved


@dataclass(frozen=True, slots=True, eq=False)
class Dora:
    """`magnitude · (W + d) / ‖W + d‖ − W`, where d is the delta of `inner`.

    `magnitude` is (out, 1, …), with norms of what leads to each output, or (1, in, 1, …), with norms of what comes from
    each input.
    """

    inner: Kind
    magnitude: torch.Tensor

    @property
    def title(self) -> str:
        """The inner kind's too."""
        return f"DoRA on a {self.inner.title}"

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the difference of `weight`; see `Kind`."""
        own = weight.float()
        changed = own + self.inner.delta(weight)
        axes = [axis for axis, size in enumerate(self.magnitude.shape) if size == 1]
        if self.magnitude.ndim != weight.ndim:
            raise ValueError("the magnitudes have another number of axes")
        norm = torch.linalg.vector_norm(changed, dim=axes, keepdim=True)
        # Zeros have no direction.
        gain = self.magnitude.float() / norm.clamp_min(torch.finfo(torch.float32).tiny)
        return torch.sub(changed * gain, own)

    def to(self, device: torch.device | str) -> Self:
        """Return the same on another device."""
        return moved(self, device)
