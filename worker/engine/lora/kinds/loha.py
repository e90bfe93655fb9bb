"""LoHa (FedPara, Hyeon-Woo et al. 2021, arXiv:2108.06098; LyCORIS, arXiv:2309.14859): two low-rank products, multiplied
element by element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from worker.engine.lora.kinds.tensors import like, moved, product, tucker


@dataclass(frozen=True, slots=True, eq=False)
class LoHa:
    """`scale · (w1_a · w1_b) ⊙ (w2_a · w2_b)`, each a (out, rank) and b (rank, in · kh · kw).

    With Tucker cores t1 and t2, (rank, rank, kh, kw), a is (rank, out) and b (rank, in).
    """

    w1_a: torch.Tensor
    w1_b: torch.Tensor
    w2_a: torch.Tensor
    w2_b: torch.Tensor
    scale: float
    t1: torch.Tensor | None = None
    t2: torch.Tensor | None = None
    title: str = "LoHa"

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the difference of `weight`; see `Kind`."""
        halves = _half(self.t1, self.w1_a, self.w1_b), _half(self.t2, self.w2_a, self.w2_b)
        if halves[0].shape != halves[1].shape:
            raise ValueError("the two products are of different shapes")
        return like(weight, halves[0] * halves[1] * self.scale)

    def to(self, device: torch.device | str) -> Self:
        """Return the same on another device."""
        return moved(self, device)


def _half(core: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return product(a, b) if core is None else tucker(core, a, b)
