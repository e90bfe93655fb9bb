"""One tensor of the model that LoRAs change, and what becomes of it with LoRAs merged in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from worker.engine.lora.change import Change

WEIGHT, BIAS = "weight", "bias"
Parts = list[tuple[Change, float]]


@dataclass(slots=True, eq=False)
class Slot:
    """One tensor that LoRAs change: a module's weight or bias.

    `own` is the model's, on the device or in host memory; None for a bias that the module does not have. `merged` is
    the second tensor, where there is one.
    """

    module: Any
    name: str
    own: torch.Tensor | None
    merged: torch.Tensor | None = None

    @property
    def here(self) -> torch.Tensor:
        """The tensor that the module computes with."""
        tensor: torch.Tensor = getattr(self.module, self.name).data
        return tensor

    def point(self, tensor: torch.Tensor | None) -> None:
        """Let the module compute with `tensor`."""
        if self.own is not None:
            getattr(self.module, self.name).data = tensor
        else:
            bias = None if tensor is None else torch.nn.Parameter(tensor, requires_grad=False)
            self.module.register_parameter(self.name, bias)


def merged(own: torch.Tensor, slot: Slot, parts: Parts) -> torch.Tensor:
    """Return `own` with the differences added, in float32."""
    total = own.to(torch.float32, copy=True)
    for change, weight in parts:
        if slot.name == BIAS:
            assert change.bias is not None
            delta = change.bias.to(own.device, torch.float32)
        else:
            assert change.kind is not None
            delta = change.kind.to(own.device).delta(own)
        total.add_(delta, alpha=weight)
    return total
