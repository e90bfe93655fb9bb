"""What the kinds have in common: Tucker cores, shapes and devices."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import torch

_Kind = TypeVar("_Kind")


def moved(kind: _Kind, device: torch.device | str) -> _Kind:
    """Return a dataclass with all of its tensors, and those of kinds within it, on another device."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type] # every kind is a dataclass
        value = getattr(kind, field.name)
        if hasattr(value, "to"):
            changes[field.name] = value.to(device)
    return dataclasses.replace(kind, **changes)  # type: ignore[type-var]


def product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the product of (out, r, …) and (r, …) as a matrix, float32; what follows the first two axes is of size 1
    in `first` and flattened in `second`."""
    return first.float().flatten(1) @ second.float().flatten(1)


def tucker(core: torch.Tensor, outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """Expand a core, (p, q, kh, kw), by (p, out) and (q, in) to (out, in, kh, kw), float32."""
    return torch.einsum("pq..., po, qi -> oi...", core.float(), outer.float(), inner.float())


def like(weight: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """Return `delta` in the shape of `weight`: of the same outputs, and as many values for each.

    Raises:
        ValueError: it does not have that many.
    """
    if delta.shape[0] != weight.shape[0] or delta.numel() != weight.numel():
        raise ValueError(f"a difference of shape {tuple(delta.shape)} does not fit {tuple(weight.shape)}")
    return delta.reshape(weight.shape)
