"""What a LoRA adds to one module of the model, and its computation for a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from worker.engine.lora.kinds import Kind

# The modules whose output is linear in their weights and biases, so that differences of these can be computed apart.
LAYERS = (torch.nn.Linear, torch.nn.Conv2d)
SUPPORTED = (*LAYERS, torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.Embedding)


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """The differences of a module's weights and of its bias, (out,), at LoRA weight 1; one of them may be None."""

    kind: Kind | None
    bias: torch.Tensor | None = None

    @property
    def title(self) -> str:
        """What people call it, for messages."""
        return "difference of a bias" if self.kind is None else self.kind.title


def through(module: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return the output of `module`, one of `SUPPORTED`, with these weights and bias in place of its own."""
    match module:
        case torch.nn.Conv2d():
            return functional.conv2d(
                inputs, weight, bias, module.stride, module.padding, module.dilation, module.groups
            )
        case torch.nn.LayerNorm():
            return functional.layer_norm(inputs, module.normalized_shape, weight, bias, module.eps)
        case torch.nn.GroupNorm():
            return functional.group_norm(inputs, module.num_groups, weight, bias, module.eps)
        case torch.nn.Embedding():
            return functional.embedding(inputs, weight)
    return functional.linear(inputs, weight, bias)
