"""Load the networks of a model in diffusers' layout one by one, and refuse what their files do not hold completely."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from worker.errors import ModelLoadError
from worker.models.pull import ModelFiles

_CLASSES: Mapping[str, Any] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
}
# A layer by its number, as in `encoder.layers.11.mlp.fc1.weight`. Weights of a layer that the configuration does not
# have mean that the two do not belong together; others (a vision tower, old buffers) are of no use here.
_NUMBERED = re.compile(r"(^|\.)\w+\.\d+\.")
_OF_OTHERS = re.compile(r"(^|\.)(vision_model|model_ema|loss)\.|position_ids$")


def load_components(files: ModelFiles, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """Return the networks that `files` has weights for, by component.

    Raises:
        ModelLoadError: a component lacks weights, or has layers that its configuration does not have; the message
            names the first key.
    """
    present = {path.parent.name for path in files.weights}
    return {name: _load(files, name, kind, dtype) for name, kind in _CLASSES.items() if name in present}


def check_loaded(model_id: str, modules: Mapping[str, torch.nn.Module]) -> None:
    """Check that no weight of a model from a single file was left without a value.

    Raises:
        ModelLoadError: the file lacks one; the message names the first by diffusers' name.
    """
    for component, module in modules.items():
        for name, tensor in module.state_dict().items():
            if tensor.is_meta:
                raise ModelLoadError(f"{model_id} is not complete: its {component} has no {name}.")


def _load(files: ModelFiles, component: str, kind: Any, dtype: torch.dtype) -> torch.nn.Module:
    module, told = kind.from_pretrained(
        files.root,
        subfolder=component,
        variant=files.variant_of(component),
        use_safetensors=True,
        local_files_only=True,
        dtype=dtype,
        output_loading_info=True,
    )
    _refuse_partial(files.model_id, component, module, told)
    loaded: torch.nn.Module = module
    return loaded


def _refuse_partial(model_id: str, component: str, module: torch.nn.Module, told: Mapping[str, Any]) -> None:
    unexpected = sorted(name for name in told["unexpected_keys"] if not _OF_OTHERS.search(name))
    missing = _first_of(module, told["missing_keys"])
    if missing is not None:
        instead = f" (it has {unexpected[0]}, which is unknown)" if unexpected else ""
        raise ModelLoadError(f"{model_id} is not complete: its {component} has no {missing}{instead}.")
    mismatched = [entry[0] if isinstance(entry, tuple) else entry for entry in told["mismatched_keys"]]
    if mismatched:
        raise ModelLoadError(f"{model_id}: {component}/config.json does not describe the weights: {mismatched[0]}.")
    extra = next((name for name in unexpected if _NUMBERED.search(name)), None)
    if extra is not None:
        raise ModelLoadError(f"{model_id}: {component}/config.json does not describe the weights: {extra}.")


def _first_of(module: torch.nn.Module, missing: Collection[str]) -> str | None:
    """Return the first missing key in the module's own order, without buffers that are computed."""
    in_order: Iterable[str] = [name for name in module.state_dict() if name in missing]
    return next(iter(in_order), next(iter(sorted(missing)), None))
