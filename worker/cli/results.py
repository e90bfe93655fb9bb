"""Results formatted as a JSON object for programs and as one line of text for people."""

from __future__ import annotations

from typing import Any, TypeAlias

from worker.events.headers import Result, job_status
from worker.events.types import GenerationCompleted, GenerationFailed, GenerationStatus, JobStatus

Final: TypeAlias = GenerationCompleted | GenerationFailed

ENDED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


def status_object(event: Result) -> dict[str, Any]:
    """Return the JSON object of `GET /status/{job_id}` in the HTTP interface.

    A job that is still running also has its step, one that failed its error.
    """
    answer: dict[str, Any] = {"job_id": event.job_id, "status": job_status(event).value}
    if not isinstance(event, GenerationFailed):
        answer |= {
            "image_url": event.image_url,
            "thumbnail_url": event.thumbnail_url,
            "generation_time": event.generation_time,
        }
    if isinstance(event, GenerationStatus) and event.step is not None:
        answer |= {"step": event.step, "num_inference_steps": event.num_inference_steps}
    if not isinstance(event, GenerationCompleted) and event.error_code is not None:
        answer |= {"error_code": event.error_code.value, "error_message": event.error_message}
    return answer


def one_line(event: Result) -> str:
    """Describe a result in one line, to be printed after the job's id and state; empty if there is nothing to add."""
    match event:
        case GenerationCompleted() as done:
            return f"{done.image_url} ({done.generation_time:.2f} s, waited {done.queue_time:.2f} s)"
        case GenerationFailed() as failed:
            return f"{failed.error_code.value}: {failed.error_message}"
        case GenerationStatus(error_code=code) if code is not None:
            return f"{code.value}: {event.error_message or ''}"
        case GenerationStatus(image_url=url) if url is not None:
            return url if event.generation_time is None else f"{url} ({event.generation_time:.2f} s)"
        case GenerationStatus(step=step) if step is not None:
            return f"step {step} of {event.num_inference_steps}"
    return ""
