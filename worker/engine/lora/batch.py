"""Apply the LoRAs of one batch by forward hooks: `base(x) + Σ_k w_k[row] · (α_k / r_k) · B_k(A_k x)`.

The bits of a row do not depend on the other rows, for three reasons. Each LoRA runs over the whole padded batch, so its
shapes are always the same, and ranks are padded. LoRAs are added in the order of their names. A sample without a LoRA
is selected unchanged, instead of adding zero times a value, so that even an overflow in another row cannot affect it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from worker.engine.lora.file import Layer

# Ranks are padded with zeros to a multiple of this. With smaller ranks, matrix products on a CPU use kernels in which
# a sample's bits depend on its position in the batch (measured with MKL, ranks 2 and 3), and tensor cores are slower.
_RANK_MULTIPLE = 8

# Inputs of the layers have the shape (samples, C), (samples, tokens, C) or (samples, C, h, w).
_INPUT_DIMS = (2, 3, 4)


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of one LoRA, one per sample, shaped for inputs of each number of dimensions.

    `having` marks the samples whose weight is not zero; it is None if no weight is zero.
    """

    factor: dict[int, torch.Tensor]
    having: dict[int, torch.Tensor] | None


class LoraBatch:
    """The LoRAs of one batch with their weights per sample, as hooks on the modules that they change.

    The hooks stay installed between uses, because installing 700 of them is slow; they do nothing outside `applied`.
    """

    def __init__(self, parts: Mapping[torch.nn.Module, list[tuple[Layer, Weights]]]) -> None:
        self._parts = parts
        self._handles: list[Any] = []
        self._on = False

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Apply the LoRAs to the outputs of the modules inside the block."""
        if not self._handles:
            self._handles = [m.register_forward_hook(self._hook(parts)) for m, parts in self._parts.items()]
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _hook(self, parts: list[tuple[Layer, Weights]]) -> Callable[..., torch.Tensor | None]:
        def hook(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor | None:
            if not self._on:
                return None
            for layer, weights in parts:
                output = _add(module, layer, weights, inputs[0], output)
            return output

        return hook


def placed(layer: Layer, device: torch.device, dtype: torch.dtype) -> Layer:
    """Return `layer` on the device, in the model's dtype and with a padded rank, as `LoraBatch` needs it."""
    missing = -layer.down.shape[0] % _RANK_MULTIPLE
    others = [0, 0] * (layer.down.ndim - 2)
    return Layer(
        functional.pad(layer.down.to(device, dtype), [*others, 0, 0, 0, missing]),
        functional.pad(layer.up.to(device, dtype), [*others, 0, missing, 0, 0]),
        layer.scale,
    )


def weigh(weights: Sequence[float], layer: Layer) -> Weights:
    """Build the weights, one per sample, for a placed layer; they also serve all other layers with the same scale."""
    like = layer.down
    factor = torch.tensor([weight * layer.scale for weight in weights], dtype=like.dtype, device=like.device)
    having = None if all(weights) else torch.tensor([bool(w) for w in weights], device=like.device)
    return Weights(_views(factor), None if having is None else _views(having))


def _views(vector: torch.Tensor) -> dict[int, torch.Tensor]:
    return {dims: vector.view(-1, *[1] * (dims - 1)) for dims in _INPUT_DIMS}


def _add(module: Any, layer: Layer, weights: Weights, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Add one LoRA's part to `output`; the weights scale the tensor between A and B, which is the smallest one."""
    dims = inputs.ndim
    if isinstance(module, torch.nn.Conv2d):
        narrow = functional.conv2d(inputs, layer.down, None, module.stride, module.padding, module.dilation)
        added = output + functional.conv2d(narrow * weights.factor[dims], layer.up)
    else:
        narrow = functional.linear(inputs, layer.down)
        added = output + functional.linear(narrow * weights.factor[dims], layer.up)
    return added if weights.having is None else torch.where(weights.having[dims], added, output)
