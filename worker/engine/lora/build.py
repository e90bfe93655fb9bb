"""Build the change of one module from the parts that a LoRA file has for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from worker.engine.lora.change import LAYERS, SUPPORTED, Change
from worker.engine.lora.keys import ALPHA, BIAS, DIFF, DOWN, LOHA, LOKR, MAGNITUDE, MID, UP, Part, Parts
from worker.engine.lora.kinds import Kind
from worker.engine.lora.kinds.dora import Dora
from worker.engine.lora.kinds.full import Full
from worker.engine.lora.kinds.loha import LoHa
from worker.engine.lora.kinds.lokr import LoKr
from worker.engine.lora.kinds.low_rank import LowRank, with_core
from worker.engine.lora.unfit import Unfit


def build(stem: str, parts: Parts, module: Any, default_scale: Callable[[int], float]) -> Change:
    """Build the change of `module`.

    Args:
        stem: what the keys of the parts begin with.
        default_scale: scale of a low-rank kind without an alpha, by its rank.

    Raises:
        Unfit: parts are missing, are not finite numbers, or do not fit the module.
    """
    first = next(iter(parts.values())).key
    for part in parts.values():
        check_finite(part.key, part.tensor)
    tensors = {name: part.tensor for name, part in parts.items()}
    kind = _kind(stem, parts, tensors, default_scale)
    if not isinstance(module, SUPPORTED if kind is None or isinstance(kind, Full) else LAYERS):
        raise Unfit(f"key {first} does not name a layer that a {_title(kind)} can change")
    if module.weight is None or getattr(module, "groups", 1) != 1:
        raise Unfit(f"key {first} names a layer without weights, or a convolution in groups")
    if kind is not None:
        if MAGNITUDE in parts:
            kind = Dora(kind, _magnitude(parts[MAGNITUDE], module.weight))
        _check_shape(first, kind, parts, module.weight)
    elif MAGNITUDE in parts:
        raise Unfit(f"key {first} is of a DoRA whose other parts are missing")
    return Change(kind, _bias(parts[BIAS], module) if BIAS in parts else None)


def check_finite(key: str, tensor: torch.Tensor) -> None:
    """Raise Unfit if a tensor is not of finite floating-point numbers."""
    if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
        raise Unfit(f"key {key} holds values that are not finite numbers")


def shape(tensor: torch.Tensor) -> str:
    """Return a tensor's shape for a message."""
    return "×".join(map(str, tensor.shape)) or "()"


def _title(kind: Kind | None) -> str:
    return "difference of a bias" if kind is None else kind.title


def _kind(
    stem: str, parts: Parts, tensors: dict[str, torch.Tensor], default_scale: Callable[[int], float]
) -> Kind | None:
    names = tensors.keys() - {ALPHA, BIAS, MAGNITUDE}
    if not names:
        if BIAS not in parts and MAGNITUDE not in parts:
            raise Unfit(f"key {parts[ALPHA].key} is an alpha of nothing")
        return None
    families = [family for family in ({DOWN, UP, MID}, {*LOHA}, {*LOKR}, {DIFF}) if names & family]
    if len(families) > 1:
        listed = ", ".join(parts[name].key.removeprefix(f"{stem}.") for name in sorted(names))
        raise Unfit(f"{stem} has parts of several kinds: {listed}")
    if DIFF in names:
        return Full(tensors[DIFF])
    if DOWN in names or UP in names or MID in names:
        return _low_rank(stem, parts, tensors, default_scale)
    return _loha(stem, parts, tensors) if names <= {*LOHA} else _lokr(stem, parts, tensors)


def _low_rank(
    stem: str, parts: Parts, tensors: dict[str, torch.Tensor], default_scale: Callable[[int], float]
) -> LowRank:
    for name, other in ((DOWN, UP), (UP, DOWN), (MID, UP)):
        if name in parts and other not in parts:
            raise Unfit(f"key {parts[name].key} lacks its other half")
    down, up = tensors[DOWN], tensors[UP]
    rank = _rank(parts[DOWN])
    title = "LoRA"
    if MID in parts:
        title = "LoRA in Tucker form"
        try:
            down = with_core(tensors[MID], down)
        except (RuntimeError, ValueError, IndexError):
            raise _unfit(parts[MID].key, [down, tensors[MID]], None) from None
    scale = _scale(parts, rank) if ALPHA in parts else default_scale(rank)
    if not math.isfinite(scale):
        raise Unfit(f"the alpha of {stem} is not a finite number")
    return LowRank(down, up, scale, title)


def _loha(stem: str, parts: Parts, tensors: dict[str, torch.Tensor]) -> LoHa:
    for name in LOHA[:4]:
        _require(stem, parts, name)
    if len(parts.keys() & set(LOHA[4:])) == 1:
        raise Unfit(f"{stem} has one Tucker core instead of two")
    scale = _scale(parts, _rank(parts["hada_w1_b"])) if ALPHA in parts else 1.0
    w1_a, w1_b, w2_a, w2_b = (tensors[name] for name in LOHA[:4])
    return LoHa(w1_a, w1_b, w2_a, w2_b, scale, tensors.get("hada_t1"), tensors.get("hada_t2"))


def _lokr(stem: str, parts: Parts, tensors: dict[str, torch.Tensor]) -> LoKr:
    blocks: list[tuple[torch.Tensor, ...]] = []
    rank = None
    for whole in ("lokr_w1", "lokr_w2"):
        factors = (f"{whole}_a", f"{whole}_b")
        if whole in parts and parts.keys().isdisjoint(factors):
            blocks.append((tensors[whole],))
            continue
        if whole in parts:
            raise Unfit(f"{stem} has both {whole} and its factors")
        for name in factors:
            _require(stem, parts, name)
        rank = _rank(parts[factors[1]])
        blocks.append(tuple(tensors[name] for name in factors))
    if "lokr_t2" in parts and "lokr_w2" in parts:
        raise Unfit(f"{stem} has both lokr_w2 and a Tucker core for its factors")
    # Without factors there is no rank, and LyCORIS leaves alpha alone.
    scale = 1.0 if rank is None or ALPHA not in parts else _scale(parts, rank)
    return LoKr(blocks[0], blocks[1], scale, tensors.get("lokr_t2"))


def _require(stem: str, parts: Parts, name: str) -> None:
    if name not in parts:
        raise Unfit(f"key {stem}.{name} is missing")


def _rank(part: Part) -> int:
    rank = part.tensor.shape[0] if part.tensor.ndim else 0
    if not rank:
        raise Unfit(f"key {part.key} is of rank 0")
    return rank


def _scale(parts: Parts, rank: int) -> float:
    """Return alpha / rank."""
    key, alpha = parts[ALPHA]
    if alpha.numel() != 1:
        raise Unfit(f"key {key} is not one number")
    return float(alpha) / rank


def _check_shape(first: str, kind: Kind, parts: Parts, weight: torch.Tensor) -> None:
    """Compute the difference without values, which takes no memory however large the tensors claim to be."""
    try:
        _check_low_rank(kind.inner if isinstance(kind, Dora) else kind, weight)
        fits = kind.to("meta").delta(weight.to("meta")).shape == weight.shape
    except (RuntimeError, IndexError, ValueError):
        fits = False
    if not fits:
        raise _unfit(first, [part.tensor for name, part in parts.items() if name not in (ALPHA, BIAS)], weight)


def _check_low_rank(kind: Kind, weight: torch.Tensor) -> None:
    """A LoRA also runs through its bottleneck (`batch.py`), so that both halves must be as that needs them."""
    if isinstance(kind, LowRank):
        rank = kind.down.shape[0]
        wanted = (rank, *weight.shape[1:]), (weight.shape[0], rank, *(1 for _ in weight.shape[2:]))
        if (kind.down.shape, kind.up.shape) != wanted:
            raise ValueError("the halves do not fit the layer")


def _unfit(key: str, tensors: Iterable[torch.Tensor], weight: torch.Tensor | None) -> Unfit:
    shapes = " and ".join(shape(tensor) for tensor in tensors)
    layer = "each other" if weight is None else f"a layer of {shape(weight)}"
    return Unfit(f"key {key} is made for another model: shapes {shapes} do not fit {layer}")


def _bias(part: Part, module: Any) -> torch.Tensor:
    size = module.weight.shape[0]
    if isinstance(module, torch.nn.Embedding) or part.tensor.shape != (size,):
        raise _unfit(part.key, [part.tensor], module.weight)
    return part.tensor


def _magnitude(part: Part, weight: torch.Tensor) -> torch.Tensor:
    """Return a magnitude as (out, 1, …) or (1, in, 1, …); PEFT's are of the outputs, as (out,) or (1, out, 1, 1)."""
    magnitude = part.tensor
    if weight.ndim < 2:
        raise _unfit(part.key, [magnitude], weight)
    outputs, inputs, others = weight.shape[0], weight.shape[1], [1] * (weight.ndim - 1)
    of_outputs = "lora_magnitude_vector" in part.key or magnitude.ndim < 2 or magnitude.shape[0] != 1
    if of_outputs and magnitude.numel() == outputs:
        return magnitude.reshape(outputs, *others)
    if not of_outputs and magnitude.shape[0] == 1 and magnitude.numel() == inputs:
        return magnitude.reshape(1, inputs, *others[1:])
    raise _unfit(part.key, [magnitude], weight)
