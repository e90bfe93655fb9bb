"""A manifest that is read again: its form is checked, and what it says of a picture becomes objects. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from types import UnionType
from typing import Any, TypeAlias, cast

from worker.call_sizes import stated_samples
from worker.delivery.keys import Keys, object_keys
from worker.delivery.manifest import MANIFEST_VERSION
from worker.events.conversion import from_record
from worker.events.types import GenerationRequest, OutputFormat
from worker.job import AppliedProfile, LoraMethod
from worker.lora_method import stated_method
from worker.presets import Preset
from worker.prompt_syntax import PromptSyntax

_Shape: TypeAlias = "type | UnionType | dict[str, _Shape]"
_NUMBER = int | float
_LORA_SHAPE: dict[str, _Shape] = {"name": str, "weight": _NUMBER, "fingerprint": str}
# Younger than the first manifests, so they may be absent.
_PROFILE_SHAPE: dict[str, _Shape] = {"name": str, "fingerprint": str}
_PRESET_SHAPE: dict[str, _Shape] = {
    "name": str,
    "scheduler": str,
    "num_inference_steps": int,
    "guidance_scale": _NUMBER,
    "timestep_spacing": str | None,
    "timesteps": list,
    "eta": _NUMBER,
}
_SHAPE: dict[str, _Shape] = {
    "job_id": str,
    "girl_id": str,
    "user_id": int,
    "request_digest": str,
    "request": {"affection_level": int, "nsfw_level": int},
    "recipe": {
        "prompt": str,
        "negative_prompt": str | None,
        "seed": int,
        "num_inference_steps": int,
        "guidance_scale": _NUMBER,
        "width": int,
        "height": int,
        "scheduler": str,
        "high_quality": bool,
        "loras": list,
    },
    "model": {"model_fingerprint": str, "refiner_fingerprint": str | None},
    "picture": {
        "output_format": str,
        "content_type": str,
        "byte_count": int,
        "sha256": str,
        "pixel_sha256": str,
        "blurhash": str,
        "nsfw_score": _NUMBER | None,
    },
    "run": {
        "generation_time": _NUMBER,
        "queue_time": _NUMBER,
        "gpu_seconds": _NUMBER,
        "cost_usd": _NUMBER | None,
    },
}


def load_manifest(data: bytes) -> dict[str, Any]:
    """A stored manifest, checked as far as `completed_event` and `stored_request` rely on it.

    Raises:
        ValueError: no JSON, another version, a field absent or of another type, or ids that are none.
    """
    try:
        manifest = json.loads(data, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("the manifest is nested too deeply") from None
    _check(manifest, {"manifest_version": int}, "")
    if manifest["manifest_version"] != MANIFEST_VERSION:
        raise ValueError(f"manifest_version {manifest['manifest_version']} is not {MANIFEST_VERSION}")
    _check(manifest, _SHAPE, "")
    if manifest["recipe"].get("profile") is not None:
        _check(manifest["recipe"]["profile"], _PROFILE_SHAPE, "recipe.profile")
    applied_syntax(manifest["recipe"])
    applied_samples(manifest)
    applied_compilation(manifest)
    if manifest["recipe"].get("preset") is not None:
        _check(manifest["recipe"]["preset"], _PRESET_SHAPE, "recipe.preset")
        for timestep in manifest["recipe"]["preset"]["timesteps"]:
            _check(timestep, int, "recipe.preset.timesteps")
        applied_preset(manifest["recipe"])
    for lora in manifest["recipe"]["loras"]:
        _check(lora, _LORA_SHAPE, "recipe.loras")
    applied_method(manifest)
    stored_keys(manifest)
    OutputFormat(manifest["picture"]["output_format"])
    return cast("dict[str, Any]", manifest)


def stored_request(manifest: Mapping[str, Any]) -> GenerationRequest:
    """The request as it was sent, to be made again.

    Raises:
        TypeError, ValueError: the stored request is none.
    """
    record = dict(manifest["request"])
    for name in ("requested_at", "expires_at"):
        if record.get(name) is not None:
            record[name] = datetime.fromisoformat(record[name])
    return from_record(GenerationRequest, record)


def applied_profile(recipe: Mapping[str, Any]) -> AppliedProfile | None:
    """The profile that a stored recipe was composed with."""
    profile = recipe.get("profile")
    return None if profile is None else AppliedProfile(profile["name"], profile["fingerprint"])


def applied_preset(recipe: Mapping[str, Any]) -> Preset | None:
    """The preset that a stored recipe was drawn with, as it was then. Raises ValueError: it contradicts itself."""
    preset = recipe.get("preset")
    if preset is None:
        return None
    known = {name: preset[name] for name in _PRESET_SHAPE}
    return Preset(**(known | {"timesteps": tuple(preset["timesteps"])}))


def applied_syntax(recipe: Mapping[str, Any]) -> PromptSyntax:
    """How the prompts of a stored recipe were read. Raises ValueError: as none that is known."""
    return PromptSyntax(recipe.get("prompt_syntax", PromptSyntax.LITERAL))


def applied_samples(manifest: Mapping[str, Any]) -> int | None:
    """The samples of the UNet calls that a stored picture was drawn with; None where they varied.

    Raises:
        ValueError: no worker has such calls.
    """
    return stated_samples(manifest["model"], guided=manifest["recipe"]["guidance_scale"] > 1)


def applied_method(manifest: Mapping[str, Any]) -> LoraMethod | None:
    """How the LoRAs of a stored picture were applied; None where it has none.

    Raises:
        ValueError: no worker applies them so.
    """
    return stated_method(manifest["model"], [(lora["name"], lora["weight"]) for lora in manifest["recipe"]["loras"]])


def applied_compilation(manifest: Mapping[str, Any]) -> bool | None:
    """Whether a stored picture's steps were compiled ones; None where its calls varied, which is not made again.

    Raises:
        ValueError: the manifest says neither yes nor no.
    """
    model = manifest["model"]
    if model.get("deterministic") is not True:
        return None
    compiled = model.get("compiled", False)  # older manifests are of workers that had no compiled steps
    if not isinstance(compiled, bool):
        raise ValueError(f"the manifest's model.compiled is neither true nor false: {compiled!r}")
    return compiled


def stored_keys(manifest: Mapping[str, Any]) -> Keys:
    """Where the objects of a stored picture lie. Raises ValueError: its ids are none."""
    return object_keys(manifest["girl_id"], manifest["job_id"], manifest["picture"]["output_format"])


def _check(value: object, shape: _Shape, path: str) -> None:
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise ValueError(f"the manifest's {path or 'top level'} is no object")
        for name, inner in shape.items():
            where = f"{path}.{name}" if path else name
            if name not in value:
                raise ValueError(f"the manifest lacks {where}")
            _check(value[name], inner, where)
    elif not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool):
        raise ValueError(f"the manifest's {path} is of the wrong type: {type(value).__name__}")


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")
