"""LoRA layouts that diffusers converts: PEFT's, its own older ones, and kohya's where the names are not of the model.

Files that `load_lora_weights` accepts are accepted here, without PEFT.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils.state_dict_utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)

from worker.engine.lora.build import build
from worker.engine.lora.change import Change
from worker.engine.lora.keys import DOWN, UP, Part
from worker.engine.lora.names import COMPONENTS, UNET, ModuleNames, Place
from worker.engine.lora.unfit import Unfit

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
# Errors that the converters raise for keys that they do not expect.
_UNCONVERTIBLE = (ValueError, KeyError, IndexError, RuntimeError, TypeError, AttributeError)


def convert(
    tensors: dict[str, torch.Tensor], metadata: Mapping[str, Any], names: ModuleNames, unet_config: Any
) -> dict[Place, Change]:
    """Return the changes of the modules that plain LoRAs are for, by diffusers' converters.

    Raises:
        Unfit: they cannot convert the keys, or the LoRAs do not fit the model.
    """
    if not tensors:
        return {}
    try:
        state, alphas = StableDiffusionXLPipeline.lora_state_dict(dict(tensors), unet_config=unet_config)
    except _UNCONVERTIBLE as error:
        raise Unfit(f"diffusers cannot convert its keys ({short(error)})") from error
    changes = {}
    for component, keys in _by_component(state).items():
        modules = names.modules[component]
        peft = _to_peft(component, keys, flat=not any(name.startswith("text_model.") for name in modules))
        for key, original in peft.items():
            if key.endswith(_UP) and key.removesuffix(_UP) + _DOWN in peft:
                continue
            module = key.removesuffix(_DOWN)
            if module == key or module + _UP not in peft:
                raise Unfit(f"key {original} has an unknown layout or lacks its other half")
            if module not in modules:
                raise Unfit(f"key {original} does not name a layer of this model")
            partner = peft[module + _UP]
            parts = {DOWN: Part(original, state[original]), UP: Part(partner, state[partner])}
            # The name under which diffusers' kohya conversion stores an alpha.
            alpha = (alphas or {}).get(original.split(".lora.")[0] + ".alpha")
            scale = default_scale(Place(component, module), metadata, alpha)
            changes[Place(component, module)] = build(original.removesuffix(_DOWN), parts, modules[module], scale)
    return changes


def default_scale(place: Place, metadata: Mapping[str, Any], alpha: float | None = None) -> Callable[[int], float]:
    """Return the function that gives alpha / rank, or alpha / √rank with rsLoRA (arXiv:2312.03732), by the rank.

    Args:
        metadata: of the PEFT configuration that `save_lora_weights` stores in the header.
        alpha: what the file says beside; None: what the metadata says, or the rank.
    """
    component, module = place

    def scale(rank: int) -> float:
        chosen: Any = alpha
        if chosen is None:
            patterns = metadata.get(f"{component}.alpha_pattern") or {}
            if not isinstance(patterns, dict):
                raise Unfit("diffusers cannot convert its metadata (alpha_pattern is not an object)")
            chosen = next(_matching(patterns, module), metadata.get(f"{component}.lora_alpha", rank))
        root = metadata.get(f"{component}.use_rslora", False)
        try:
            return float(chosen) / (math.sqrt(rank) if root else rank)
        except (ValueError, TypeError) as error:
            raise Unfit(f"diffusers cannot convert its metadata ({short(error)})") from error

    return scale


def short(error: object) -> str:
    """Return the message of a library's error, or a text of the file, cut and on one line."""
    return " ".join(str(error).split())[:200]


def _by_component(state: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for key in state:
        component = key.partition(".")[0]
        if component not in COMPONENTS:
            raise Unfit(f"key {key} has an unknown layout")
        keys.setdefault(component, []).append(key)
    return keys


def _to_peft(component: str, keys: list[str], *, flat: bool) -> dict[str, str]:
    """Map PEFT's name of every key, without the component, to the key; converts names as `load_lora_weights` does."""
    names = {key.removeprefix(f"{component}."): key for key in keys}
    try:
        if not all(name.endswith((_DOWN, _UP)) for name in names):
            if component == UNET:
                names = convert_unet_state_dict_to_peft(names)
            else:
                names = convert_state_dict_to_peft(convert_state_dict_to_diffusers(names))
    except _UNCONVERTIBLE as error:
        raise Unfit(f"diffusers cannot convert its keys ({short(error)})") from error
    if component != UNET and flat:
        # Newer releases of transformers have flattened CLIPTextModel, but files use the old module names.
        names = {name.removeprefix("text_model."): key for name, key in names.items()}
    return names


def _matching(patterns: Mapping[str, Any], module: str) -> Iterator[Any]:
    """Like `peft.utils.other.get_pattern_key`, but with literal keys: a file must not supply regular expressions."""
    for key, value in patterns.items():
        name = key.removeprefix("^")
        if module == name or (name == key and module.endswith(f".{name}")):
            yield value
