"""Build jobs for the engine without admission; the benchmark chooses all values itself."""

from __future__ import annotations

from worker.call_sizes import CallSizes
from worker.events.types import GenerationRequest
from worker.job import Job, Lane, Origin


def job_of(
    request: GenerationRequest,
    index: int,
    *,
    seed: int,
    lane: Lane = Lane.NORMAL,
    loras: tuple[tuple[str, float], ...] = (),
    at: float = 0.0,
) -> Job:
    """Build the job with number `index` of a benchmark; it arrives at `at` seconds."""
    return Job(
        request=request,
        lane=lane,
        origin=Origin("bench", 0, index, 0),
        seed=seed,
        loras=loras,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        attempt=1,
        requested_at=at,
        received_at=at,
        expires_at=None,
    )


def call_sizes(rows: int) -> CallSizes:
    """Return sizes of which every call has twice `rows` samples, so that as many guided rows fit."""
    return CallSizes("cpu", "float32", slots=rows)
