"""The kinds of LoRAs: each computes what it adds to the weights of one layer.

A kind is an immutable set of tensors with one pure function, `delta(weight)`: the difference of the weights at LoRA
weight 1, in float32, of the shape and on the device of `weight`, which must be the model's own weight. At LoRA weight w
the layer has `weight + w × delta(weight)`. So a difference can be added in a forward hook or merged into a copy of the
weights, and both are the same.
"""

from __future__ import annotations

from typing import Protocol, Self

import torch


class Kind(Protocol):
    """One kind of LoRA for one layer."""

    @property
    def title(self) -> str:
        """What people call it, for messages."""
        ...

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the difference of `weight`, float32, of its shape and on its device.

        Raises:
            ValueError, RuntimeError, IndexError: the tensors do not fit each other or `weight`.
        """
        ...

    def to(self, device: torch.device | str) -> Self:
        """Return the same on another device; "meta" keeps the shapes only."""
        ...
