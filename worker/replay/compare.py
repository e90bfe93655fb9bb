"""Whether a stored picture is what its manifest says, and why one that was made again differs. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from worker.delivery.digest import request_digest
from worker.delivery.encode import CONTENT_TYPES
from worker.delivery.keys import object_keys
from worker.delivery.manifest import ModelInfo, applied_profile, stored_request
from worker.events.types import GenerationCompleted, GenerationRequest
from worker.job import AppliedProfile, Job, effective_seed

# Of the request's own choices, those that reach the recipe as they are.
_CHOSEN = ("num_inference_steps", "guidance_scale", "width", "height", "scheduler", "high_quality")
_COMPOSED = ("prompt", "negative_prompt")
# What a completed event witnesses of the manifest that it was made from; times and costs are not worth it.
_PICTURE_TOLD = ("sha256", "byte_count")
_RECIPE_TOLD = ("prompt", "negative_prompt")


def flaws(
    manifest: Mapping[str, Any],
    request: GenerationRequest,
    job: Job | None,
    announced: Sequence[GenerationCompleted] = (),
) -> list[str]:
    """What shows that a manifest is not as it was written; empty for a sound one.

    Args:
        request: of the record in Kafka.
        job: what that request is admitted as; None where it is no longer admitted.
        announced: its completed events. One that agrees is enough: a picture may have been made again.
    """
    found = []
    if manifest["request_digest"] != request_digest(request):
        found.append("request_digest is not that of the request record")
    if _stored_digest(manifest) != manifest["request_digest"]:
        found.append("request does not have request_digest")
    found += [f"recipe.{name} is not the request's" for name in _changed(manifest["recipe"], request, job)]
    if (manifest["job_id"], manifest["girl_id"], manifest["user_id"]) != (
        request.job_id,
        request.girl_id,
        request.user_id,
    ):
        found.append("job_id, girl_id or user_id is not the request's")
    output_format = request.output_format.value
    if manifest.get("keys") != asdict(object_keys(request.girl_id, request.job_id, output_format)):
        found.append("keys are not those of the picture")
    picture = manifest["picture"]
    if (picture["output_format"], picture["content_type"]) != (output_format, CONTENT_TYPES[output_format]):
        found.append("picture.output_format is not the request's")
    if announced and not any(agrees(manifest, event) for event in announced):
        found.append("the completed event told of another picture")
    return found


def picture_flaws(manifest: Mapping[str, Any], data: bytes | None) -> list[str]:
    """What is wrong with the stored image, by its manifest; `data` is None where there is none."""
    if data is None:
        return ["the image is gone"]
    picture = manifest["picture"]
    if (hashlib.sha256(data).hexdigest(), len(data)) != (picture["sha256"], picture["byte_count"]):
        return ["the image's bytes are not those of picture.sha256"]
    return []


def reasons(
    manifest: Mapping[str, Any], now: ModelInfo, lora_fingerprints: Mapping[str, str], *, reproducible: bool
) -> list[str]:
    """Why the same recipe may give other pixels here and now, each reason's name first; empty: no reason known.

    Args:
        lora_fingerprints: of the files that were used now.
        reproducible: False where the device ran short of memory just now.
    """
    then = manifest["model"]
    found = [_change("model", then, now.model_fingerprint, "model_fingerprint")]
    if manifest["recipe"]["high_quality"]:
        found.append(_change("refiner", then, now.refiner_fingerprint, "refiner_fingerprint"))
    for lora in manifest["recipe"]["loras"]:
        found.append(_change(f"lora {lora['name']}", lora, lora_fingerprints.get(lora["name"]), "fingerprint"))
    found.append(_change("device", then, now.device, "device"))
    found.append(_change("dtype", then, now.dtype, "dtype"))
    versions = then.get("versions") or {}
    for name in sorted({*versions, *now.versions}):
        found.append(_change(f"version {name}", versions, now.versions.get(name), name))
    if then.get("deterministic") is not True:
        found.append("deterministic: it was not made so")
    elif not now.deterministic or not reproducible:
        found.append("deterministic: it is not made so now")
    else:
        found.append(_change("slots", then, now.slots, "slots"))
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
    changed = [name for name in _CHOSEN if recipe[name] != getattr(request, name)]
    if job is not None and effective_seed(recipe["seed"]) != job.seed:
        changed.append("seed")
    profile = applied_profile(recipe)
    if job is not None and job.profile == profile:
        changed += [name for name in _COMPOSED if recipe[name] != getattr(job, name)]
    elif job is not None and profile is None:
        changed += [name for name in _COMPOSED if recipe[name] != getattr(request, name)]
    # Else the profile is another now than it was then, and only the completed event tells what it said.
    return changed + ([] if _loras_fit(recipe, request, job, profile) else ["loras"])


def _loras_fit(
    recipe: Mapping[str, Any], request: GenerationRequest, job: Job | None, profile: AppliedProfile | None
) -> bool:
    used = [(lora["name"], lora["weight"]) for lora in recipe["loras"]]
    wanted = [(lora.name, lora.weight) for lora in request.loras]
    if not wanted:
        # It may have got the default one of that time.
        return True
    if profile is None:
        return used == wanted
    if job is not None and job.profile == profile:
        return used == list(job.loras)
    return set(wanted) <= set(used)


def agrees(manifest: Mapping[str, Any], event: GenerationCompleted) -> bool:
    """Whether a completed event told of the picture that the manifest describes."""
    picture, model, recipe = manifest["picture"], manifest["model"], manifest["recipe"]
    return (
        all(picture[name] == getattr(event, name) for name in _PICTURE_TOLD)
        and all(recipe[name] == getattr(event, name) for name in _RECIPE_TOLD)
        # Older ones tell 63 bits, of which the low 32 have always been the ones that count.
        and effective_seed(recipe["seed"]) == effective_seed(event.seed)
        and model["model_fingerprint"] == event.model_fingerprint
        and (not recipe["high_quality"] or model["refiner_fingerprint"] == event.refiner_fingerprint)
        and {lora["name"]: lora["fingerprint"] for lora in recipe["loras"]} == dict(event.lora_fingerprints)
    )
