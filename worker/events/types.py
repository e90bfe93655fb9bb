"""The events of `schemas/`, as frozen dataclasses with the same fields, order and defaults.

Times are timezone-aware datetimes of millisecond precision, which is what the schemas carry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias, TypeVar, get_args

from worker.errors import ErrorCode

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Priority(StrEnum):
    UNKNOWN = "unknown"
    URGENT = "urgent"
    HIGH = "high"
    NORMAL = "normal"


class OutputFormat(StrEnum):
    UNKNOWN = "unknown"
    JPEG = "jpeg"
    WEBP = "webp"
    PNG = "png"


class JobStatus(StrEnum):
    UNKNOWN = "unknown"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA by name, and its strength."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One picture to make, as sent: nothing here is validated beyond its type."""

    job_id: str
    girl_id: str
    user_id: int
    prompt: str
    negative_prompt: str | None = None
    affection_level: int = 0
    nsfw_level: int = 0
    num_inference_steps: int = 30
    guidance_scale: float = 7.5
    high_quality: bool = False
    priority: Priority = Priority.NORMAL
    width: int = 1024
    height: int = 1024
    seed: int | None = None
    scheduler: str = "DPMSolverMultistepScheduler"
    loras: tuple[Lora, ...] = ()
    output_format: OutputFormat = OutputFormat.JPEG
    requested_at: datetime | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationCompleted:
    """A picture is durable; `generation_time`, `queue_time` and `gpu_seconds` are seconds."""

    job_id: str
    girl_id: str
    user_id: int
    priority: Priority = Priority.UNKNOWN
    image_url: str
    thumbnail_url: str
    manifest_url: str
    generation_time: float
    queue_time: float
    gpu_seconds: float
    cost_usd: float | None = None
    width: int
    height: int
    content_type: str
    byte_count: int
    sha256: str
    blurhash: str = ""
    seed: int
    prompt: str
    negative_prompt: str | None = None
    affection_level: int = 0
    nsfw_level: int = 0
    num_inference_steps: int
    guidance_scale: float
    high_quality: bool = False
    scheduler: str
    loras: tuple[Lora, ...] = ()
    output_format: OutputFormat = OutputFormat.UNKNOWN
    model_fingerprint: str = ""
    refiner_fingerprint: str | None = None
    lora_fingerprints: Mapping[str, str] = field(default_factory=dict, hash=False)
    nsfw_score: float | None = None
    worker_id: str = ""
    attempt: int = 1
    replay_id: str | None = None
    completed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationFailed:
    """A job ended without a picture; `error_message` is one sentence to act on."""

    job_id: str
    girl_id: str = ""
    user_id: int = 0
    priority: Priority = Priority.UNKNOWN
    error_code: ErrorCode
    error_message: str
    retryable: bool = False
    attempt: int = 1
    worker_id: str = ""
    replay_id: str | None = None
    failed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationStatus:
    """The latest state of a job; `generation_time` is seconds."""

    job_id: str
    girl_id: str = ""
    user_id: int = 0
    status: JobStatus
    step: int | None = None
    num_inference_steps: int | None = None
    priority: Priority = Priority.UNKNOWN
    image_url: str | None = None
    thumbnail_url: str | None = None
    generation_time: float | None = None
    error_code: ErrorCode | None = None
    error_message: str | None = None
    worker_id: str = ""
    attempt: int = 1
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationCancellation:
    """Asks every worker to stop a job."""

    job_id: str
    reason: str | None = None
    requested_by: str | None = None
    requested_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkPartition:
    """A partition of a work topic that a worker reads; `position` is the next offset that it will read."""

    topic: str
    partition: int
    epoch: int = 0
    position: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneWork:
    """What a worker has not finished of a lane: requests, and seconds of work."""

    priority: Priority
    requests: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """What a worker has and has room for; for the dispatchers (`docs/dispatch.md`)."""

    worker_id: str
    session_id: str
    sequence: int
    accepts: bool = True
    rows: int = 1
    picture_seconds: float
    partitions: tuple[WorkPartition, ...] = ()
    work: tuple[LaneWork, ...] = ()
    models: tuple[str, ...] = ()
    loras: tuple[str, ...] = ()
    reported_at: datetime


# What is told about a job, and all that is told.
JobEvent: TypeAlias = (
    GenerationRequest | GenerationCompleted | GenerationFailed | GenerationStatus | GenerationCancellation
)
Event: TypeAlias = JobEvent | WorkerReport
# Records inside of an event.
Nested: TypeAlias = Lora | WorkPartition | LaneWork
EVENT_TYPES: tuple[type[Event], ...] = get_args(Event)
JOB_EVENT_TYPES: tuple[type[JobEvent], ...] = get_args(JobEvent)
BY_NAME: Mapping[str, type[Event]] = {cls.__name__: cls for cls in EVENT_TYPES}

E = TypeVar("E", bound=Event)


def timestamp(seconds: float) -> datetime:
    """Seconds since the epoch, as a datetime of the schemas' precision."""
    return from_millis(int(seconds * 1000))


def from_millis(millis: int) -> datetime:
    """Milliseconds since the epoch, as a datetime. Raises OverflowError: it is in none of the years 1 to 9999."""
    return _EPOCH + timedelta(milliseconds=millis)
