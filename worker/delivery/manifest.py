"""The manifest: all that is needed to make a picture again and to prove that it is the same. Pure.

It is written here; `stored_manifest` reads it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from worker.call_sizes import CallSizes
from worker.delivery.digest import request_digest
from worker.delivery.keys import object_keys
from worker.events.conversion import to_record
from worker.lora_method import LoraMethods, LoraMode

if TYPE_CHECKING:
    from worker.delivery.encode import EncodedPicture
    from worker.job import Job
    from worker.picture import Picture

MANIFEST_VERSION = 1

# Of `ModelInfo`: what decides something for each job.
_BY_JOB = frozenset({"calls", "lora_mode"})
# Left out where they are the default, so that the keys of older checkpoints stay valid.
_IF_SET = ("buckets", "numerics")


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
