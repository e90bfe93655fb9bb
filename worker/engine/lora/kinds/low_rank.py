"""LoRA (Hu et al. 2021, arXiv:2106.09685), and LoCon, which is the same for convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from worker.engine.lora.kinds.tensors import like, moved, product


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """`scale · up · down`; `scale` is alpha / rank.

    Linear: `down` is (rank, in), `up` (out, rank). Convolution: (rank, in, kh, kw) and (out, rank, 1, 1).
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float
    title: str = "LoRA"

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the difference of `weight`; see `Kind`."""
        return like(weight, product(self.up, self.down) * self.scale)

    def to(self, device: torch.device | str) -> Self:
        """Return the same on another device."""
        return moved(self, device)


def with_core(core: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Return the `down` of a LoCon in Tucker form: its core (`lora_mid`) and down projection in one convolution.

    Args:
        core: (rank, rank, kh, kw).
        down: (rank, in, 1, 1).
    """
    return torch.einsum("pq..., qi -> pi...", core.float(), down.float().flatten(1))
