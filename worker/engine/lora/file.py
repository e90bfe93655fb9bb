"""Read LoRA files (Hu et al. 2021, arXiv:2106.09685): find them by name, and check them against the model.

Reading a file never executes code from it. diffusers converts the layouts (PEFT's, its own older ones, kohya's with
diffusers' or Stability's block names), so files that `load_lora_weights` accepts are accepted here, without PEFT. DoRA,
LoHa and LoKr are rejected, because they are not of the form `B(A x)`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils.state_dict_utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from safetensors import SafetensorError
from safetensors.torch import load

from worker.errors import ErrorCode, RequestRejected
from worker.models.fingerprint import FINGERPRINT_HEX_DIGITS

UNET, TEXT_ENCODERS = "unet", ("text_encoder", "text_encoder_2")
COMPONENTS = (UNET, *TEXT_ENCODERS)

MAX_FILE_BYTES = 4 << 30

_SUFFIX = ".safetensors"
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_KOHYA_PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
_KOHYA_DOWN, _KOHYA_UP, _KOHYA_ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
# Keys of other kinds of lora_cache. diffusers drops the first of these with a warning, which would change the picture.
_OTHER_KINDS = ("dora_scale", "lora_magnitude_vector", "hada_", "lokr_", "lora_mid")
# Errors that diffusers' converters raise for keys that they do not expect, and json for invalid metadata.
_UNCONVERTIBLE = (ValueError, KeyError, IndexError, RuntimeError, TypeError)
_SHOWN_CHARS = 200

Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Layer:
    """The addition `scale · up(down(x))` to the output of one module; `scale` is alpha / rank.

    Linear: `down` is (rank, in), `up` (out, rank). Convolution: (rank, in, kh, kw) and (out, rank, 1, 1).
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float


@dataclass(frozen=True, slots=True)
class LoraFile:
    """The content of a LoRA file: for each component of the pipeline, its layers by module name.

    As read, the tensors are in host memory and have the file's dtype.
    """

    fingerprint: str
    layers: dict[str, dict[str, Layer]]


class _Unfit(Exception):
    """A file is rejected; the message is the reason, to follow the LoRA's name."""


def locate(folder: Path | None, name: str) -> tuple[Path, Stamp]:
    """Return the path of a LoRA's file, with links resolved, and its stamp: modification time (ns) and size (bytes).

    Raises:
        RequestRejected: `unknown_lora`, if there is no folder or no such file, or the file lies outside the folder.
    """
    try:
        return _locate(folder, name)
    except _Unfit as reason:
        raise _rejected(name, reason) from None


def read(name: str, path: Path, pipeline: Any) -> LoraFile:
    """Read the LoRA at `path`, and check it against the modules of `pipeline` (a `StableDiffusionXLPipeline`).

    Raises:
        RequestRejected: `unknown_lora`, if the file is unreadable, of another kind, or made for another model.
    """
    try:
        return _read(path, pipeline)
    except _Unfit as reason:
        raise _rejected(name, reason) from reason.__cause__


def _rejected(name: str, reason: _Unfit) -> RequestRejected:
    return RequestRejected(ErrorCode.UNKNOWN_LORA, f"LoRA {name}: {reason}")


def _locate(folder: Path | None, name: str) -> tuple[Path, Stamp]:
    if folder is None:
        raise _Unfit("this worker has no LoRA folder (SDXL_LORA_PATH)")
    try:
        root = folder.resolve()
        path = (root / f"{name}{_SUFFIX}").resolve(strict=True)
        status = path.stat()
    except (OSError, ValueError, RuntimeError):
        raise _Unfit(f"the LoRA folder has no readable {name}{_SUFFIX}") from None
    if not path.is_relative_to(root):
        raise _Unfit("its file is outside the LoRA folder")
    if not path.is_file():
        raise _Unfit("it is not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise _Unfit(f"its file is larger than {MAX_FILE_BYTES >> 30} GiB")
    return path, (status.st_mtime_ns, status.st_size)


def _read(path: Path, pipeline: Any) -> LoraFile:
    try:
        # The file is read once, so that the fingerprint is certainly that of the weights in use.
        data = path.read_bytes()
        tensors = dict(sorted(load(data).items()))
    except OSError as error:
        raise _Unfit(f"its file cannot be read ({error.strerror})") from error
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise _Unfit(f"its file is damaged or not safetensors ({_short(error)})") from error
    if not tensors:
        raise _Unfit("its file is empty")
    _check_kind(tensors)
    try:
        metadata = _metadata(data)
        state, alphas = StableDiffusionXLPipeline.lora_state_dict(tensors, unet_config=pipeline.unet.config)
        layers = _layers(state, alphas or {}, metadata, pipeline)
    except _UNCONVERTIBLE as error:
        raise _Unfit(f"diffusers cannot convert its keys ({_short(error)})") from error
    return LoraFile(hashlib.sha256(data).hexdigest()[:FINGERPRINT_HEX_DIGITS], layers)


def _check_kind(tensors: Mapping[str, torch.Tensor]) -> None:
    for key in tensors:
        if any(mark in key for mark in _OTHER_KINDS):
            raise _Unfit(f"key {key} belongs to a DoRA, LoHa, LoKr or Tucker LoRA; only plain LoRAs are supported")
        if not key.startswith(_KOHYA_PREFIXES):
            continue
        module, dot, rest = key.partition(".")
        if dot + rest not in (_KOHYA_DOWN, _KOHYA_UP, _KOHYA_ALPHA):
            raise _Unfit(f"key {key} has an unknown layout")
        for partner in (_KOHYA_DOWN, _KOHYA_UP):
            if module + partner not in tensors:
                raise _Unfit(f"key {module}{partner} is missing")


def _metadata(data: bytes) -> dict[str, Any]:
    """Return the PEFT configuration that `save_lora_weights` stores in the header, which safetensors has validated."""
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    parsed = json.loads(entries.get("lora_adapter_metadata") or "{}")
    if not isinstance(parsed, dict):
        raise ValueError("lora_adapter_metadata is not an object")
    return parsed


def _layers(
    state: dict[str, torch.Tensor], alphas: Mapping[str, float], metadata: Mapping[str, Any], pipeline: Any
) -> dict[str, dict[str, Layer]]:
    layers: dict[str, dict[str, Layer]] = {component: {} for component in COMPONENTS}
    for component, keys in _by_component(state).items():
        encoder = getattr(pipeline, component)
        modules = dict(encoder.named_modules())
        names = _to_peft(component, keys, flat=not hasattr(encoder, "text_model"))
        for key, original in names.items():
            if key.endswith(_UP) and key.removesuffix(_UP) + _DOWN in names:
                continue
            module = key.removesuffix(_DOWN)
            if module == key or module + _UP not in names:
                raise _Unfit(f"key {original} has an unknown layout or lacks its other half")
            down, up = state[original], state[names[module + _UP]]
            _check_fit(original, modules.get(module), down, up)
            # The name under which diffusers' kohya conversion stores an alpha.
            alpha = alphas.get(original.split(".lora.")[0] + ".alpha")
            scale = _scale(module, component, down.shape[0], alpha, metadata)
            layers[component][module] = Layer(down, up, scale)
    return layers


def _by_component(state: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for key in state:
        component = key.partition(".")[0]
        if component not in COMPONENTS:
            raise _Unfit(f"key {key} has an unknown layout")
        keys.setdefault(component, []).append(key)
    return keys


def _to_peft(component: str, keys: list[str], *, flat: bool) -> dict[str, str]:
    """Map PEFT's name of every key, without the component, to the key; converts names as `load_lora_weights` does."""
    names = {key.removeprefix(f"{component}."): key for key in keys}
    if not all(name.endswith((_DOWN, _UP)) for name in names):
        if component == UNET:
            names = convert_unet_state_dict_to_peft(names)
        else:
            names = convert_state_dict_to_peft(convert_state_dict_to_diffusers(names))
    if component != UNET and flat:
        # Newer releases of transformers have flattened CLIPTextModel, but files use the old module names.
        names = {name.removeprefix("text_model."): key for name, key in names.items()}
    return names


def _check_fit(key: str, module: Any, down: torch.Tensor, up: torch.Tensor) -> None:
    if not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
        raise _Unfit(f"key {key} does not name a linear or convolution layer of this model")
    rank, weight = down.shape[0] if down.ndim else 0, module.weight
    wanted = (rank, *weight.shape[1:]), (weight.shape[0], rank, *(1 for _ in weight.shape[2:]))
    if not rank or (down.shape, up.shape) != wanted:
        raise _Unfit(
            f"key {key} is made for another model: shapes {_shape(down)} and {_shape(up)} do not fit a layer of"
            f" {_shape(weight)}"
        )
    for tensor in (down, up):
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise _Unfit(f"key {key} holds values that are not finite numbers")


def _scale(module: str, component: str, rank: int, alpha: float | None, metadata: Mapping[str, Any]) -> float:
    """Return alpha / rank, or alpha / √rank with rsLoRA (arXiv:2312.03732); 1 if the file gives no alpha."""
    if alpha is None:
        patterns = metadata.get(f"{component}.alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise ValueError("alpha_pattern is not an object")
        alpha = next(_matching(patterns, module), metadata.get(f"{component}.lora_alpha", rank))
    root = metadata.get(f"{component}.use_rslora", False)
    scale = float(alpha) / (math.sqrt(rank) if root else rank)
    if not math.isfinite(scale):
        raise _Unfit(f"the alpha of {component}.{module} is {alpha}")
    return scale


def _matching(patterns: Mapping[str, Any], module: str) -> Iterator[Any]:
    """Like `peft.utils.other.get_pattern_key`, but with literal keys: a file must not supply regular expressions."""
    for key, value in patterns.items():
        name = key.removeprefix("^")
        if module == name or (name == key and module.endswith(f".{name}")):
            yield value


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "()"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:_SHOWN_CHARS]
