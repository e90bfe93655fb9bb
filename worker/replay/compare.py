"""Check stored pictures against their manifests, and explain why a picture made again may differ. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from worker.delivery.digest import request_digest
from worker.delivery.encode import CONTENT_TYPES
from worker.delivery.keys import legacy_manifest_key, object_keys
from worker.delivery.manifest import ModelInfo
from worker.delivery.stored_manifest import applied_preset, applied_profile, stored_request
from worker.events.types import GenerationCompleted, GenerationRequest
from worker.job import AppliedProfile, Job, effective_seed

# What a preset replaces, but for the refiner, which it does without.
_SAMPLING = ("num_inference_steps", "guidance_scale", "scheduler")
# Fields of the request that are copied to the recipe unchanged, where no preset replaces them.
_CHOSEN = ("num_inference_steps", "guidance_scale", "width", "height", "scheduler", "high_quality")
# A recipe that is older than a field was drawn with the field's default.
_DEFAULTS = {field.name: field.default for field in fields(GenerationRequest)}
_COMPOSED = ("prompt", "negative_prompt")
# Fields of the manifest that its completed event repeats and that are compared; times and costs are not.
_PICTURE_IN_EVENT = ("sha256", "byte_count")
_RECIPE_IN_EVENT = ("prompt", "negative_prompt")


def flaws(
    manifest: Mapping[str, Any],
    request: GenerationRequest,
    job: Job | None,
    announced: Sequence[GenerationCompleted] = (),
) -> list[str]:
    """List the signs that a manifest was changed after it was written; empty for an unchanged one.

    Args:
        request: the request of the record in Kafka.
        job: the job that the request is admitted as now; None if it would be rejected now.
        announced: the completed events of the job. It is enough that one of them agrees with the manifest, because
            the picture may have been made more than once.
    """
    found = []
    if manifest["request_digest"] != request_digest(request):
        found.append("request_digest is not that of the request record")
    if _stored_digest(manifest) != manifest["request_digest"]:
        found.append("request_digest is not that of the stored request")
    found += [f"recipe.{name} is not the request's" for name in _changed(manifest["recipe"], request, job)]
    if (manifest["job_id"], manifest["girl_id"], manifest["user_id"]) != (
        request.job_id,
        request.girl_id,
        request.user_id,
    ):
        found.append("job_id, girl_id or user_id is not the request's")
    output_format = request.output_format.value
    keys = asdict(object_keys(request.girl_id, request.job_id, output_format))
    legacy = keys | {"manifest": legacy_manifest_key(request.girl_id, request.job_id)}
    if manifest.get("keys") not in (keys, legacy):
        found.append("keys are not those of the picture")
    picture = manifest["picture"]
    if (picture["output_format"], picture["content_type"]) != (output_format, CONTENT_TYPES[output_format]):
        found.append("picture.output_format is not the request's")
    if announced and not any(agrees(manifest, event) for event in announced):
        found.append("the completed event describes another picture")
    return found


def picture_flaws(manifest: Mapping[str, Any], data: bytes | None) -> list[str]:
    """List how the stored image contradicts its manifest; `data` is None if there is no image."""
    if data is None:
        return ["the image is missing"]
    picture = manifest["picture"]
    if (hashlib.sha256(data).hexdigest(), len(data)) != (picture["sha256"], picture["byte_count"]):
        return ["the image's bytes do not match picture.sha256"]
    return []


def reasons(
    manifest: Mapping[str, Any],
    now: ModelInfo,
    lora_fingerprints: Mapping[str, str],
    *,
    reproducible: bool,
    compiled: bool = False,
) -> list[str]:
    """List why the recipe may give other pixels here and now; empty if no reason is known.

    Each reason is a sentence that starts with the name of what changed.

    Args:
        lora_fingerprints: fingerprints of the LoRA files that were used now, by name.
        reproducible: False if the device ran out of memory while the picture was made now.
        compiled: whether its steps were compiled ones now.
    """
    then = manifest["model"]
    found = [_change("model", then, now.model_fingerprint, "model_fingerprint")]
    if manifest["recipe"]["high_quality"]:
        found.append(_change("refiner", then, now.refiner_fingerprint, "refiner_fingerprint"))
    for lora in manifest["recipe"]["loras"]:
        found.append(_change(f"lora {lora['name']}", lora, lora_fingerprints.get(lora["name"]), "fingerprint"))
    found.append(_change("embeddings", then, now.embeddings_fingerprint, "embeddings_fingerprint"))
    found.append(_change("device", then, now.device, "device"))
    found.append(_change("dtype", then, now.dtype, "dtype"))
    found.append(_change("tiles of the VAE", then, now.vae_tile_px, "vae_tile_px"))
    versions = then.get("versions") or {}
    for name in sorted({*versions, *now.versions}):
        found.append(_change(f"version {name}", versions, now.versions.get(name), name))
    numerics = then.get("numerics") or {}
    for name in sorted({*numerics, *now.numerics}):
        found.append(_change(f"numerics {name}", numerics, now.numerics.get(name), name))
    found.append(_change("compiled", {"compiled": then.get("compiled", False)}, compiled, "compiled"))
    if then.get("deterministic") is not True:
        found.append("deterministic: the picture was not made deterministically")
    elif not now.deterministic or not reproducible:
        found.append("deterministic: the picture is not made deterministically now")
    return [reason for reason in found if reason is not None]


def _change(name: str, then: Mapping[str, Any], now: object, key: str) -> str | None:
    before = then.get(key)
    return None if before == now else f"{name}: {before} then, {now} now"


def _stored_digest(manifest: Mapping[str, Any]) -> str | None:
    try:
        return request_digest(stored_request(manifest))
    except (TypeError, ValueError, KeyError, AttributeError):
        return None


def _changed(recipe: Mapping[str, Any], request: GenerationRequest, job: Job | None) -> list[str]:
    preset = applied_preset(recipe)
    expected = {name: getattr(request, name) for name in _CHOSEN}
    if preset is not None:
        # Which preset applied then, only the completed event can confirm.
        expected |= {name: getattr(preset, name) for name in _SAMPLING} | {"high_quality": False}
    changed = [name for name in _CHOSEN if recipe.get(name, _DEFAULTS[name]) != expected[name]]
    if job is not None and effective_seed(recipe["seed"]) != job.seed:
        changed.append("seed")
    profile = applied_profile(recipe)
    if job is not None and job.profile == profile:
        changed += [name for name in _COMPOSED if recipe[name] != getattr(job, name)]
    elif job is not None and profile is None:
        changed += [name for name in _COMPOSED if recipe[name] != getattr(request, name)]
    # Otherwise the profile has changed since, and only the completed event can confirm the composed prompts.
    return changed + ([] if _loras_fit(recipe, request, job, profile) else ["loras"])


def _loras_fit(
    recipe: Mapping[str, Any], request: GenerationRequest, job: Job | None, profile: AppliedProfile | None
) -> bool:
    used = [(lora["name"], lora["weight"]) for lora in recipe["loras"]]
    wanted = [(lora.name, lora.weight) for lora in request.loras]
    if not wanted:
        # The job may have been given the default LoRA of that time.
        return True
    if profile is None and recipe.get("preset") is None:
        return used == wanted
    if job is not None and job.profile == profile and job.preset == applied_preset(recipe):
        return used == list(job.loras)
    return set(wanted) <= set(used)


def agrees(manifest: Mapping[str, Any], event: GenerationCompleted) -> bool:
    """Whether a completed event told of the picture that the manifest describes."""
    picture, model, recipe = manifest["picture"], manifest["model"], manifest["recipe"]
    return (
        all(picture[name] == getattr(event, name) for name in _PICTURE_IN_EVENT)
        and all(recipe[name] == getattr(event, name) for name in _RECIPE_IN_EVENT)
        and all(recipe[name] == getattr(event, name) for name in _SAMPLING)
        # Older events hold 63 bits, of which the low 32 have always been the ones that count.
        and effective_seed(recipe["seed"]) == effective_seed(event.seed)
        and model["model_fingerprint"] == event.model_fingerprint
        and (not recipe["high_quality"] or model["refiner_fingerprint"] == event.refiner_fingerprint)
        and {lora["name"]: lora["fingerprint"] for lora in recipe["loras"]} == dict(event.lora_fingerprints)
    )
