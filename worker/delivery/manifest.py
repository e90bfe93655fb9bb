"""The manifest: all that is needed to make a picture again and to prove that it is the same. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from worker.call_sizes import CallSizes, stated_samples
from worker.delivery.digest import request_digest
from worker.delivery.keys import Keys, legacy_manifest_key, object_keys
from worker.events.types import (
    GenerationCompleted,
    GenerationRequest,
    Lora,
    OutputFormat,
    Priority,
    from_record,
    to_record,
)
from worker.job import AppliedProfile, LoraMethod, effective_seed
from worker.lora_method import LoraMethods, LoraMode, stated_method
from worker.presets import Preset
from worker.prompt_syntax import PromptSyntax

if TYPE_CHECKING:
    from worker.delivery.encode import EncodedPicture
    from worker.job import Job, Picture

MANIFEST_VERSION = 1

# Of `ModelInfo`: what decides something for each job.
_BY_JOB = frozenset({"calls", "lora_mode"})
# Left out where they are the default, so that the keys of older checkpoints stay valid.
_IF_SET = ("buckets", "numerics")

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What made the picture: the same values and the same request give the same pixels.

    `versions` are those of the libraries (torch, diffusers …); `device` is the accelerator's name;
    `calls` gives the size of the UNet calls, which decides the kernels when `deterministic`; `lora_mode` is the setting
    by which LoRAs are merged or applied by hooks; `embeddings_fingerprint` is of all files of SDXL_EMBEDDINGS_PATH,
    since a prompt may name any of them; `vae_tile_px` is the side of the tiles that pictures are decoded in, None for
    whole ones. `buckets` are the names of the calls that this worker runs compiled, and `numerics` what else decides
    bits, where it is not the default.
    """

    model_id: str
    model_fingerprint: str
    refiner_id: str | None
    refiner_fingerprint: str | None
    versions: Mapping[str, str]
    device: str
    dtype: str
    deterministic: bool
    calls: CallSizes
    lora_mode: LoraMode = LoraMode.MERGED
    embeddings_fingerprint: str | None = None
    vae_tile_px: int | None = None
    buckets: tuple[str, ...] = ()
    numerics: Mapping[str, str] = field(default_factory=dict)

    def of(self, job: Job) -> dict[str, Any]:
        """What made the picture of one job, as it stands in manifests and in the keys of checkpoints."""
        told = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _BY_JOB}
        told = {name: value for name, value in told.items() if value or name not in _IF_SET}
        told["call_samples"] = self.calls.of(job) if self.deterministic else None
        method = self.lora_methods.of(job)
        return told if method is None else told | {"lora_method": method.value}

    @property
    def lora_methods(self) -> LoraMethods:
        """How the LoRAs of a job are applied."""
        return LoraMethods(self.lora_mode, self.calls if self.deterministic else None)


def build_manifest(
    picture: Picture,
    encoded: EncodedPicture,
    model: ModelInfo,
    *,
    lora_fingerprints: Mapping[str, str],
    worker_id: str,
    created_at: datetime,
    gpu_hourly_usd: float | None,
) -> dict[str, Any]:
    """The manifest as JSON types. URLs are left out: the CDN's name may change, keys do not."""
    job, request = picture.job, picture.job.request
    keys = object_keys(request.girl_id, request.job_id, request.output_format.value)
    return {
        "manifest_version": MANIFEST_VERSION,
        "job_id": request.job_id,
        "girl_id": request.girl_id,
        "user_id": request.user_id,
        "request_digest": request_digest(request),
        "request": {name: _json(value) for name, value in to_record(request).items()},
        "recipe": _recipe(job, encoded, lora_fingerprints),
        "model": {name: _json(value) for name, value in model.of(job).items()}
        | {"deterministic": model.deterministic and picture.reproducible, "compiled": picture.compiled},
        "keys": asdict(keys),
        "picture": {
            "output_format": request.output_format.value,
            "content_type": encoded.content_type,
            "byte_count": len(encoded.data),
            "sha256": encoded.sha256,
            "pixel_sha256": encoded.pixel_sha256,
            "blurhash": encoded.blurhash,
            "nsfw_score": picture.nsfw_score,
            "blurred": picture.blurred,
        },
        "run": {
            "created_at": created_at.isoformat(),
            "worker_id": worker_id,
            "attempt": job.attempt,
            "lane": job.lane.label,
            "queue_time": picture.timing.queue,
            "generation_time": picture.timing.generation,
            "gpu_seconds": picture.timing.gpu,
            "cost_usd": _cost(picture.timing.gpu, gpu_hourly_usd),
        },
    }


def dump_manifest(manifest: Mapping[str, Any]) -> bytes:
    """UTF-8 JSON, the same bytes for the same manifest, laid out for people."""
    return (json.dumps(manifest, ensure_ascii=False, allow_nan=False, indent=2) + "\n").encode()


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
    _keys(manifest)
    OutputFormat(manifest["picture"]["output_format"])
    return cast("dict[str, Any]", manifest)


def completed_event(
    manifest: Mapping[str, Any],
    *,
    url: Callable[[str], str],
    priority: Priority,
    worker_id: str,
    attempt: int,
    replay_id: str | None,
    completed_at: datetime,
) -> GenerationCompleted:
    """The completed event of a stored picture, made from its manifest the first time and every later one.

    Args:
        url: an object key's public address, now.
        priority: with `worker_id`, `attempt` and `replay_id`, of the request that is being answered.
    """
    recipe, picture, run, request = (manifest[name] for name in ("recipe", "picture", "run", "request"))
    keys = _keys(manifest)
    return GenerationCompleted(
        job_id=manifest["job_id"],
        girl_id=manifest["girl_id"],
        user_id=manifest["user_id"],
        priority=priority,
        image_url=url(keys.image),
        thumbnail_url=url(keys.thumbnail),
        manifest_url=url(_place(manifest, keys)),
        generation_time=run["generation_time"],
        queue_time=run["queue_time"],
        gpu_seconds=run["gpu_seconds"],
        cost_usd=run["cost_usd"],
        width=recipe["width"],
        height=recipe["height"],
        content_type=picture["content_type"],
        byte_count=picture["byte_count"],
        sha256=picture["sha256"],
        blurhash=picture["blurhash"],
        seed=effective_seed(recipe["seed"]),
        prompt=recipe["prompt"],
        negative_prompt=recipe["negative_prompt"],
        affection_level=request["affection_level"],
        nsfw_level=request["nsfw_level"],
        num_inference_steps=recipe["num_inference_steps"],
        guidance_scale=recipe["guidance_scale"],
        high_quality=recipe["high_quality"],
        scheduler=recipe["scheduler"],
        loras=tuple(Lora(name=lora["name"], weight=lora["weight"]) for lora in recipe["loras"]),
        output_format=OutputFormat(picture["output_format"]),
        model_fingerprint=manifest["model"]["model_fingerprint"],
        refiner_fingerprint=manifest["model"]["refiner_fingerprint"] if recipe["high_quality"] else None,
        lora_fingerprints={lora["name"]: lora["fingerprint"] for lora in recipe["loras"]},
        nsfw_score=picture["nsfw_score"],
        worker_id=worker_id,
        attempt=attempt,
        replay_id=replay_id,
        completed_at=completed_at,
    )


def owners_event(
    manifest: Mapping[str, Any], *, url: Callable[[str], str], completed_at: datetime
) -> GenerationCompleted:
    """The completed event of a stored picture as it was for the request that it was made for."""
    run = manifest["run"]
    lane, worker_id, attempt = run.get("lane"), run.get("worker_id"), run.get("attempt")
    return completed_event(
        manifest,
        url=url,
        priority=next((priority for priority in Priority if priority.value == lane), Priority.UNKNOWN),
        worker_id=worker_id if isinstance(worker_id, str) else "",
        attempt=attempt if isinstance(attempt, int) else 1,
        replay_id=None,
        completed_at=completed_at,
    )


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


def _keys(manifest: Mapping[str, Any]) -> Keys:
    return object_keys(manifest["girl_id"], manifest["job_id"], manifest["picture"]["output_format"])


def _place(manifest: Mapping[str, Any], keys: Keys) -> str:
    """Where this manifest lies; version 1.0 put them elsewhere."""
    legacy = legacy_manifest_key(manifest["girl_id"], manifest["job_id"])
    stated = manifest.get("keys")
    return legacy if isinstance(stated, dict) and stated.get("manifest") == legacy else keys.manifest


def _json(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case Mapping():
            return dict(value)
        case _:
            return value


def _recipe(job: Job, encoded: EncodedPicture, lora_fingerprints: Mapping[str, str]) -> dict[str, Any]:
    return {
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "prompt_syntax": job.prompt_syntax.value,
        "seed": job.seed,
        "num_inference_steps": job.num_inference_steps,
        "guidance_scale": job.guidance_scale,
        "width": encoded.width,
        "height": encoded.height,
        "scheduler": job.scheduler,
        "high_quality": job.high_quality,
        "loras": [
            {"name": name, "weight": weight, "fingerprint": lora_fingerprints[name]} for name, weight in job.loras
        ],
        "profile": None if job.profile is None else asdict(job.profile),
        "preset": None if job.preset is None else asdict(job.preset) | {"timesteps": list(job.preset.timesteps)},
    }


def _cost(gpu_seconds: float, gpu_hourly_usd: float | None) -> float | None:
    return None if gpu_hourly_usd is None else gpu_seconds * gpu_hourly_usd / 3600


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
