"""Why a request ended without a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.errors import ErrorCode
from worker.job import Job, Lane, Origin
from worker.presets import Preset

if TYPE_CHECKING:
    from worker.events.types import GenerationRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A request that ended without a picture; `message` is one sentence that says what to do about it."""

    request: GenerationRequest
    lane: Lane
    origin: Origin
    code: ErrorCode
    message: str
    requested_at: float
    attempt: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    replay_id: str | None = None
    preset: Preset | None = None

    @property
    def num_inference_steps(self) -> int:
        return self.request.num_inference_steps if self.preset is None else self.preset.num_inference_steps

    @classmethod
    def of(cls, job: Job, code: ErrorCode, message: str) -> Failure:
        """Build the failure of an admitted job."""
        return cls(
            request=job.request,
            lane=job.lane,
            origin=job.origin,
            code=code,
            message=message,
            requested_at=job.requested_at,
            attempt=job.attempt,
            headers=job.headers,
            replay_id=job.replay_id,
            preset=job.preset,
        )
