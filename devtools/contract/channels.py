"""What the topics carry, as data: the page and the AsyncAPI document are both made of it.

Names, layouts, schemas and headers come from the code that runs; only the sentences are written here, and a test holds
that none is missing and none is left over.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, get_type_hints

from worker.delivery.messages import MessageWriter
from worker.errors import ErrorCode
from worker.events.headers import CONTENT_TYPE, TRACEPARENT, request_headers, result_headers
from worker.events.schemas import Schema, current, released
from worker.events.single_object import MARKER
from worker.events.types import (
    Event,
    GenerationCancellation,
    GenerationCompleted,
    GenerationFailed,
    GenerationRequest,
    GenerationStatus,
    JobStatus,
)
from worker.job import Origin
from worker.outcome import Original
from worker.topics import DAY_MS, DEFAULT_PARTITIONS, TopicLayout, Topics, layouts

TOPICS = Topics()
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_TRACE = {TRACEPARENT: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
_SAMPLES: dict[Any, Any] = {
    str: "x", int: 1, float: 1.0, datetime: _NOW, ErrorCode: ErrorCode.INTERNAL, JobStatus: JobStatus.FAILED,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Channel:
    """One topic. `event` is None where any bytes may come; `action` is the worker's, as AsyncAPI has it."""

    topic: str
    event: type[Event] | None
    action: str
    summary: str

    @property
    def layout(self) -> TopicLayout:
        """How the topic is created."""
        return layouts(TOPICS, DEFAULT_PARTITIONS)[self.topic]

    @property
    def retention_days(self) -> int:
        """How long a record is kept."""
        return int(self.layout.config["retention.ms"]) // DAY_MS


CHANNELS = (
    Channel(TOPICS.urgent, GenerationRequest, "receive", "Requests of the urgent lane, drawn before all others."),
    Channel(TOPICS.high, GenerationRequest, "receive", "Requests of the high lane."),
    Channel(TOPICS.normal, GenerationRequest, "receive", "Requests of the normal lane."),
    Channel(TOPICS.completed, GenerationCompleted, "send", "A picture is in the bucket."),
    Channel(TOPICS.failed, GenerationFailed, "send", "A request ended without a picture."),
    Channel(TOPICS.status, GenerationStatus, "send", "The latest state of each job."),
    Channel(TOPICS.cancellations, GenerationCancellation, "receive", "Jobs to stop; every worker reads all of them."),
    Channel(TOPICS.dead_letter, None, "send", "Records that are no requests: the original bytes, key and headers."),
)

HEADERS = {
    "content-type": f"always `{CONTENT_TYPE}`",
    "ce_specversion": "always `1.0`: CloudEvents, Kafka binding, binary mode",
    "ce_id": "the event's id; the same when the same event is told again, so deduplicate by it",
    "ce_type": "full name of the schema, such as `imagegen.events.v1.GenerationCompleted`",
    "ce_source": "who wrote it, such as `/sdxl-worker/gpu-1`",
    "ce_time": "when it was written, ISO 8601 in UTC",
    "job-id": "the job's id, the same as the key",
    "priority": "`urgent`, `high` or `normal`: on results, the lane that the job was in",
    "worker-id": "the worker that wrote it",
    "status": "`queued`, `running`, `completed`, `failed` or `cancelled`",
    "attempt": "which start of the job it was, from 1",
    "duration-ms": "milliseconds from the request to this event",
    "error-code": "on failed and cancelled jobs: the error code",
    TRACEPARENT: "W3C trace context of the request, handed on to all its results",
}

DEAD_LETTER_HEADERS = {
    "dlq-topic": "topic that the record was read from",
    "dlq-partition": "its partition there",
    "dlq-offset": "its offset there",
    "dlq-timestamp": "its timestamp, in milliseconds since 1970",
    "dlq-error": "why it is no request, in one line of 500 characters at most",
    "dlq-value-bytes": "only where the record was too large to be sent on: the size of the value that was left out",
    "worker-id": HEADERS["worker-id"],
}


def event_headers(cls: type[Event]) -> tuple[str, ...]:
    """The names of the headers that the worker or its command line writes beside an event, in their order."""
    hints = get_type_hints(cls)
    values = {field.name: _SAMPLES[hints[field.name]] for field in fields(cls) if hints[field.name] in _SAMPLES}
    event: Any = cls(**values)
    if isinstance(event, GenerationRequest | GenerationCancellation):
        written = request_headers(event, source="/x", now=_NOW, passed=_TRACE)
    else:
        if isinstance(event, GenerationStatus):
            event = GenerationStatus(**{**values, "error_code": ErrorCode.INTERNAL})
        written = result_headers(event, source="/x", now=_NOW, duration_ms=1, passed=_TRACE)
    return tuple(name for name, _ in written)


def dead_letter_headers() -> tuple[str, ...]:
    """The names of the headers that a dead letter gets beside its own."""
    original = Original(b"k", b"v", (), written_at=1.0)
    outcome = MessageWriter(TOPICS, "x", "group").dead_letter(Origin("t", 0, 0, 0), original, "reason")
    found = [message.headers for message in (*outcome.messages, *outcome.smallest)]
    return tuple(dict.fromkeys(name for headers in found for name, _ in headers))


def dead_letter_meaning(name: str) -> str:
    """What a header of a dead letter says. Raises KeyError: nobody has written it down."""
    if name.startswith("kafka_dlt-"):
        return "the same for Spring Kafka and the admin pages, which know this name"
    return DEAD_LETTER_HEADERS[name]


def versions(cls: type[Event]) -> tuple[Schema, ...]:
    """The schemas of an event that the worker reads without a registry: the current one, then older ones."""
    newest = current()[cls]
    older = [schema for schema in released() if schema.name == cls.__name__]
    return (newest, *(schema for schema in reversed(older) if schema.fingerprint != newest.fingerprint))


def single_object_header(schema: Schema) -> bytes:
    """The ten bytes before a record in single-object encoding."""
    return MARKER + schema.fingerprint
