"""LoKr (LyCORIS, Yeh et al. 2023, arXiv:2309.14859): a Kronecker product of a small and a large block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from worker.engine.lora.kinds.tensors import like, product, tucker


@dataclass(frozen=True, slots=True, eq=False)
class LoKr:
    """`scale · w1 ⊗ w2`; a block is whole, (w1,) or (w2,), or a product of its two factors (a, b).

    With a Tucker core `t2`, (rank, rank, kh, kw), the factors of w2 are (rank, out) and (rank, in).
    """

    w1: tuple[torch.Tensor, ...]
    w2: tuple[torch.Tensor, ...]
    scale: float
    t2: torch.Tensor | None = None
    title: str = "LoKr"

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the difference of `weight`; see `Kind`."""
        small, large = _block(self.w1), _block(self.w2, self.t2)
        small = small.reshape(*small.shape, *[1] * (large.ndim - small.ndim))
        if small.ndim != large.ndim or small.numel() * large.numel() != weight.numel():
            raise ValueError("the two blocks do not fit")
        return like(weight, torch.kron(small, large.contiguous()) * self.scale)

    def to(self, device: torch.device | str) -> Self:
        """Return the same on another device."""
        one, two = tuple(t.to(device) for t in self.w1), tuple(t.to(device) for t in self.w2)
        core = None if self.t2 is None else self.t2.to(device)
        return type(self)(one, two, self.scale, core, self.title)


def _block(factors: tuple[torch.Tensor, ...], core: torch.Tensor | None = None) -> torch.Tensor:
    if len(factors) == 1:
        return factors[0].float()
    a, b = factors
    if core is not None:
        return tucker(core, a, b)
    return product(a, b).reshape(a.shape[0], *b.shape[1:])
