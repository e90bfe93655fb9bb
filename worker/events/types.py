"""The events of `schemas/`, as frozen dataclasses with the same fields, order and defaults.

Times are timezone-aware datetimes of millisecond precision, which is what the schemas carry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from functools import cache, partial
from types import NoneType
from typing import Any, TypeAlias, TypeVar, cast, get_args, get_origin, get_type_hints

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
_Nested: TypeAlias = Lora | WorkPartition | LaneWork
EVENT_TYPES: tuple[type[Event], ...] = get_args(Event)
JOB_EVENT_TYPES: tuple[type[JobEvent], ...] = get_args(JobEvent)
BY_NAME: Mapping[str, type[Event]] = {cls.__name__: cls for cls in EVENT_TYPES}

E = TypeVar("E", bound=Event)
_R = TypeVar("_R", bound=Event | _Nested)
_Convert: TypeAlias = Callable[[Any], Any]


def timestamp(seconds: float) -> datetime:
    """Seconds since the epoch, as a datetime of the schemas' precision."""
    return _from_millis(int(seconds * 1000))


def to_record(event: Event | _Nested) -> dict[str, Any]:
    """The event as an Avro record: strings for enums, lists, dicts, aware datetimes."""
    return {f.name: _plain(getattr(event, f.name)) for f in fields(event)}


def from_record(cls: type[_R], record: Mapping[str, Any]) -> _R:
    """The event of an Avro record; fields that `cls` lacks are ignored, absent ones take their default.

    Every field of the event has exactly the type that `cls` declares, down to a list's items: no subclass of it,
    and no naive time. Integers pass for floats; milliseconds since the epoch for times.

    Raises:
        ValueError: a field is of another type, or a time that no datetime can hold; the message names the field.
        TypeError: a field without a default is absent.
    """
    kind: type = cls
    known = {name: _converted(name, convert, record[name]) for name, convert in _converters(kind) if name in record}
    return cls(**known)


def _converted(name: str, convert: _Convert, value: Any) -> Any:
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: {error}") from None


def _plain(value: object) -> object:
    match value:
        case Enum():
            return value.value
        case Lora() | WorkPartition() | LaneWork():
            return to_record(value)
        case tuple():
            return [_plain(item) for item in value]
        case Mapping():
            return dict(value)
        case datetime() if value.tzinfo is None:
            raise ValueError("an event's times carry their timezone")
        case _:
            return value


@cache
def _converters(cls: type) -> tuple[tuple[str, _Convert], ...]:
    return tuple((name, _converter(hint)) for name, hint in get_type_hints(cls).items())


def _converter(hint: Any) -> _Convert:
    members = [member for member in get_args(hint) if member is not NoneType]
    if NoneType in get_args(hint):
        return partial(_optional, _converter(members[0]))
    if get_origin(hint) is tuple:
        return partial(_tuple, _converter(members[0]))
    if get_origin(hint) is Mapping:
        return partial(_mapping, *members)
    if issubclass(hint, Enum):
        return partial(_symbol, hint)
    if is_dataclass(hint):
        return partial(_nested, cast("type[_Nested]", hint))
    return {float: _float, datetime: _instant}.get(hint, partial(_exactly, hint))


def _exactly(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{type(value).__name__}, where {kind.__name__} is expected")
    return value


def _float(value: Any) -> float:
    return float(value) if type(value) is int else _exactly(float, value)


def _optional(convert: _Convert, value: Any) -> Any:
    return None if value is None else convert(value)


def _tuple(convert: _Convert, value: Any) -> tuple[Any, ...]:
    return tuple(convert(item) for item in _exactly(list, value))


def _nested(kind: type[_Nested], value: Any) -> _Nested:
    return from_record(kind, _exactly(dict, value))


def _mapping(keys: type, values: type, value: Any) -> Mapping[Any, Any]:
    return {_exactly(keys, key): _exactly(values, item) for key, item in _exactly(dict, value).items()}


def _symbol(cls: type[Enum], value: Any) -> Enum:
    text = _exactly(str, value)
    return next((member for member in cls if member.value == text), cls["UNKNOWN"])


def _instant(value: Any) -> datetime:
    if type(value) is int:
        try:
            return _from_millis(value)
        except OverflowError:
            raise ValueError(f"{value} ms since 1970 is in none of the years 1 to 9999") from None
    moment: datetime = _exactly(datetime, value)
    if moment.tzinfo is None:
        raise ValueError("a time without a timezone")
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1_000 * 1_000)


def _from_millis(millis: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=millis)
