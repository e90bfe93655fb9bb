"""Apply the LoRAs of one batch by forward hooks: `base(x) + Σ_k w_k[row] · Δ_k(x)`.

Δ is the module with the LoRA's differences in place of its weights and bias. A low-rank one runs through its
bottleneck, `(α / r) · B(A x)`. Those of other kinds are computed from their tensors at every call, so that a LoRA takes
no more memory on the device than its file has, and that of one layer's difference.

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

from worker.engine.lora.change import Change, through
from worker.engine.lora.kinds.low_rank import LowRank

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

    def __init__(self, parts: Mapping[torch.nn.Module, list[tuple[Change, Weights]]]) -> None:
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

    def _hook(self, parts: list[tuple[Change, Weights]]) -> Callable[..., torch.Tensor | None]:
        def hook(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor | None:
            if not self._on:
                return None
            for change, weights in parts:
                output = _add(module, change, weights, inputs[0], output)
            return output

        return hook


def placed(change: Change, device: torch.device, dtype: torch.dtype) -> Change:
    """Return `change` on the device, as `LoraBatch` needs it.

    Low-rank tensors get the model's dtype and a padded rank; others keep the file's dtype, in which they are exact.
    """
    bias = None if change.bias is None else change.bias.to(device, dtype)
    if not isinstance(change.kind, LowRank):
        return Change(None if change.kind is None else change.kind.to(device), bias)
    kind = change.kind
    missing = -kind.down.shape[0] % _RANK_MULTIPLE
    others = [0, 0] * (kind.down.ndim - 2)
    down = functional.pad(kind.down.to(device, dtype), [*others, 0, 0, 0, missing])
    up = functional.pad(kind.up.to(device, dtype), [*others, 0, missing, 0, 0])
    return Change(LowRank(down, up, kind.scale, kind.title), bias)


def inner_scale(change: Change) -> float:
    """Return what multiplies a LoRA's weights in this change: alpha / rank of a bottleneck, else 1."""
    return change.kind.scale if isinstance(change.kind, LowRank) and change.bias is None else 1.0


def weigh(weights: Sequence[float], scale: float, device: torch.device, dtype: torch.dtype) -> Weights:
    """Build the weights, one per sample, times the scale of a change; they serve all changes with the same scale."""
    factor = torch.tensor([weight * scale for weight in weights], dtype=dtype, device=device)
    having = None if all(weights) else torch.tensor([bool(w) for w in weights], device=device)
    return Weights(_views(factor), None if having is None else _views(having))


def _views(vector: torch.Tensor) -> dict[int, torch.Tensor]:
    return {dims: vector.view(-1, *[1] * (dims - 1)) for dims in _INPUT_DIMS}


def _add(module: Any, change: Change, weights: Weights, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Add one LoRA's part to `output`."""
    factor = weights.factor[output.ndim]
    if isinstance(change.kind, LowRank) and change.bias is None:
        added = output + _through_bottleneck(module, change.kind, factor, inputs)
    elif change.kind is None:
        assert change.bias is not None
        added = output + factor * change.bias.view(-1, *[1] * (output.ndim - 2 if _has_channels_first(module) else 0))
    else:
        weight = change.kind.delta(module.weight).to(output.dtype)
        added = output + factor * through(module, inputs, weight, change.bias)
    return added if weights.having is None else torch.where(weights.having[output.ndim], added, output)


def _through_bottleneck(module: Any, kind: LowRank, factor: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """The weights scale the tensor between A and B, which is the smallest one."""
    if isinstance(module, torch.nn.Conv2d):
        narrow = functional.conv2d(inputs, kind.down, None, module.stride, module.padding, module.dilation)
        return functional.conv2d(narrow * factor, kind.up)
    return functional.linear(functional.linear(inputs, kind.down) * factor, kind.up)


def _has_channels_first(module: Any) -> bool:
    return isinstance(module, (torch.nn.Conv2d, torch.nn.GroupNorm))
