"""The completed event of a stored picture, made from its manifest. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from worker.delivery.keys import Keys, legacy_manifest_key
from worker.delivery.stored_manifest import stored_keys
from worker.events.types import GenerationCompleted, Lora, OutputFormat, Priority
from worker.job import effective_seed


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
    keys = stored_keys(manifest)
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


def _place(manifest: Mapping[str, Any], keys: Keys) -> str:
    """Where this manifest lies; version 1.0 put them elsewhere."""
    legacy = legacy_manifest_key(manifest["girl_id"], manifest["job_id"])
    stated = manifest.get("keys")
    return legacy if isinstance(stated, dict) and stated.get("manifest") == legacy else keys.manifest
