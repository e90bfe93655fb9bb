"""Results as a worker would publish them."""

from __future__ import annotations

from typing import Any

from worker.errors import ErrorCode
from worker.events.types import GenerationCompleted, GenerationFailed, Lora, Priority, timestamp


def completed(job_id: str, **fields: Any) -> GenerationCompleted:
    """A completed event."""
    given: dict[str, Any] = {
        "girl_id": "luna", "user_id": 2**60, "priority": Priority.HIGH, "image_url": f"https://cdn.example/{job_id}.jpg",
        "thumbnail_url": f"https://cdn.example/{job_id}_thumb.jpg", "manifest_url": "", "generation_time": 2.5,
        "queue_time": 0.5, "gpu_seconds": 2.0, "width": 64, "height": 64, "content_type": "image/jpeg", "byte_count": 9,
        "sha256": "0" * 64, "seed": 7, "prompt": "a red heart", "num_inference_steps": 4, "guidance_scale": 5.0,
        "scheduler": "DPMSolverMultistepScheduler", "loras": (Lora(name="ink", weight=0.5),),
        "completed_at": timestamp(5),
    }  # fmt: skip
    return GenerationCompleted(job_id=job_id, **(given | fields))


def failed(job_id: str, **fields: Any) -> GenerationFailed:
    """A failed event."""
    given: dict[str, Any] = {
        "error_code": ErrorCode.INVALID_REQUEST, "error_message": "steps must be 1 to 500", "failed_at": timestamp(6),
    }  # fmt: skip
    return GenerationFailed(job_id=job_id, **(given | fields))
