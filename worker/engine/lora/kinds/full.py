"""A full difference: as many values as the layer has (`.diff`, `.w_norm`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from worker.engine.lora.kinds.tensors import like, moved


@dataclass(frozen=True, slots=True, eq=False)
class Full:
    """The difference itself; of a 1 × 1 convolution it may be without its last two axes, and the reverse."""

    diff: torch.Tensor
    title: str = "full difference"

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the difference of `weight`; see `Kind`."""
        if tuple(filter(_not_one, self.diff.shape)) != tuple(filter(_not_one, weight.shape)):
            raise ValueError("the shapes differ")
        return like(weight, self.diff.float())

    def to(self, device: torch.device | str) -> Self:
        """Return the same on another device."""
        return moved(self, device)


def _not_one(size: int) -> bool:
    return size != 1
