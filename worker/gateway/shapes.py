"""The JSON that the gateway answers with; `docs/gateway.md` shows an example of each."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from worker.errors import ErrorCode
from worker.events.types import GenerationStatus, JobStatus, Priority


class Problem(BaseModel):
    """Why a request was not carried out."""

    error: str = Field(description="One sentence that a person can act on.")
    field: str | None = Field(None, description="The field or parameter that it is about, where it is about one.")
    code: str | None = Field(None, description="The error_code that a worker would give the same request.")


class Queued(BaseModel):
    """The answer to POST /generate."""

    job_id: str
    status: JobStatus


class CancellationSent(BaseModel):
    """The answer to DELETE /jobs/{job_id}: workers were asked to stop; the job's status tells when they have."""

    job_id: str
    status: str = Field(examples=["cancellation_requested", "cancelled"])


class JobState(BaseModel):
    """The latest that is known of a job; what is not known yet is left out."""

    job_id: str
    status: JobStatus
    girl_id: str | None = None
    lane: str | None = Field(None, examples=["urgent", "high", "normal"])
    step: int | None = Field(None, description="Denoising steps that are done; while it runs.")
    num_inference_steps: int | None = None
    image_url: str | None = None
    thumbnail_url: str | None = None
    generation_time: float | None = Field(None, description="Seconds.")
    error_code: ErrorCode | None = None
    error_message: str | None = None
    attempt: int | None = None
    updated_at: datetime

    @classmethod
    def of(cls, event: GenerationStatus) -> JobState:
        """What a status event tells."""
        return cls(
            job_id=event.job_id,
            status=event.status,
            girl_id=event.girl_id or None,
            lane=None if event.priority is Priority.UNKNOWN else event.priority.value,
            step=event.step,
            num_inference_steps=event.num_inference_steps,
            image_url=event.image_url,
            thumbnail_url=event.thumbnail_url,
            generation_time=event.generation_time,
            error_code=event.error_code,
            error_message=event.error_message or None,
            attempt=event.attempt,
            updated_at=event.updated_at,
        )


class JobList(BaseModel):
    """The answer to GET /jobs: the most recently updated first."""

    jobs: list[JobState]


class LaneCount(BaseModel):
    """What is not finished in one lane."""

    lane: str
    waiting: int
    running: int


class Queue(BaseModel):
    """The answer to GET /queue; the lanes in the order in which they are served."""

    lanes: list[LaneCount]
    complete: bool = Field(description="False where more jobs are unfinished than the gateway remembers.")


class ProfileName(BaseModel):
    """A profile that a girl_id can name."""

    name: str
    description: str = ""


class ProfileList(BaseModel):
    """The answer to GET /profiles."""

    profiles: list[ProfileName]


class HealthReport(BaseModel):
    """The answer to GET /health: the process serves, and what it can do now."""

    status: str = Field(examples=["healthy", "unhealthy"])
    ready: bool
    not_ready: list[str] = []
    version: str
    jobs: int
    streams: int


class Readiness(BaseModel):
    """The answer to GET /ready."""

    ready: bool
    reasons: list[str]
