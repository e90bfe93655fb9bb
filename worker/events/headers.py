"""Text headers, so that plain kcat is useful: CloudEvents binary mode and a few of our own.

Pure functions. Nothing written or passed on holds control characters, and every value has a length cap.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from worker.errors import ErrorCode
from worker.events.conversion import to_record
from worker.events.schemas import NAMESPACE
from worker.events.single_object import Framing, Headers
from worker.events.types import (
    Event,
    GenerationCancellation,
    GenerationCompleted,
    GenerationFailed,
    GenerationRequest,
    GenerationStatus,
    JobEvent,
    JobStatus,
    WorkerReport,
)

CONTENT_TYPE = "application/avro"
TRACEPARENT = "traceparent"
MAX_VALUE_CHARS = 256
_MAX_READ_BYTES = 1_024

# https://www.w3.org/TR/trace-context/#traceparent-header: version ff and ids of zeros are invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Input: TypeAlias = GenerationRequest | GenerationCancellation
Result: TypeAlias = GenerationCompleted | GenerationFailed | GenerationStatus
# Topic, partition and offset.
Place: TypeAlias = tuple[str, int, int]


def request_headers(event: Input, *, source: str, now: datetime, passed: Mapping[str, str] | None = None) -> Framing:
    """Headers of a request or a cancellation.

    Args:
        source: a URI reference that names the sender, such as `/sdxl-worker/cli`.
        passed: what `passed_through` kept of the headers that caused this event.
    """
    own = {"priority": event.priority.value} if isinstance(event, GenerationRequest) else {}
    return _headers(_common(event, event_id(event), source, now) | own, passed)


def result_headers(
    event: Result,
    *,
    source: str,
    now: datetime,
    answers: Place | None = None,
    replay_id: str | None = None,
    duration_ms: int | None = None,
    passed: Mapping[str, str] | None = None,
) -> Framing:
    """Headers of a completed, failed or status event.

    Args:
        source: a URI reference that names the worker, such as `/sdxl-worker/gpu-1`.
        answers: the request record that the event is about.
        replay_id: of the replay that makes the event, where one does.
        duration_ms: from the request to this event, where it is known.
        passed: what `passed_through` kept of the request's headers.
    """
    own = {
        "priority": event.priority.value,
        "worker-id": event.worker_id,
        "status": job_status(event).value,
        "attempt": str(event.attempt),
    }
    if duration_ms is not None:
        own["duration-ms"] = str(duration_ms)
    code = None if isinstance(event, GenerationCompleted) else event.error_code
    if code is not None:
        own["error-code"] = code.value
    return _headers(_common(event, event_id(event, answers, replay_id), source, now) | own, passed)


def report_headers(report: WorkerReport, *, source: str) -> Framing:
    """Headers of a worker's report, which is about no job."""
    own = {
        "content-type": CONTENT_TYPE,
        "ce_specversion": "1.0",
        "ce_id": f"{report.session_id}-{report.sequence}",
        "ce_type": event_type_name(report),
        "ce_source": source,
        "ce_time": _instant(report.reported_at),
        "worker-id": report.worker_id,
    }
    return _headers(own, None)


def job_status(event: Result) -> JobStatus:
    """The state that a result leaves its job in."""
    match event:
        case GenerationStatus():
            return event.status
        case GenerationCompleted():
            return JobStatus.COMPLETED
        case GenerationFailed():
            return JobStatus.CANCELLED if event.error_code is ErrorCode.CANCELLED else JobStatus.FAILED


def event_type_name(event: Event) -> str:
    """`ce_type`: the schema's full name."""
    return f"{NAMESPACE}.{type(event).__name__}"


def event_id(event: JobEvent, answers: Place | None = None, replay_id: str | None = None) -> str:
    """`ce_id`: one for each event, and the same when that event is told again, so that a consumer can skip it.

    - completed: that picture of that job exists. A repeated request tells the same once more, in whichever attempt.
    - failed: that request record was refused. Sent again, it is another record, with an outcome of its own.
    - status: a state and a step within an attempt of a request record.
    - request, cancellation: its content.
    """
    match event:
        case GenerationCompleted():
            own: tuple[object, ...] = (event.girl_id, event.sha256, event.replay_id)
        case GenerationFailed():
            own = (event.girl_id, answers, event.replay_id)
        case GenerationStatus():
            own = (event.girl_id, answers, replay_id, event.attempt, event.status.value, event.step)
        case _:
            own = (to_record(event),)
    return str(uuid.uuid5(uuid.NAMESPACE_URL, repr((event_type_name(event), event.job_id, *own))))


def passed_through(headers: Headers) -> dict[str, str]:
    """The incoming headers that results carry on; a malformed one is dropped."""
    value = header_text(headers, TRACEPARENT)
    return {TRACEPARENT: value} if value is not None and _TRACEPARENT.fullmatch(value) else {}


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A `traceparent` taken apart: 32 and 16 hexadecimal digits, and the flags (bit 0: sampled)."""

    trace_id: str
    span_id: str
    flags: int

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def trace_context(passed: Mapping[str, str]) -> TraceContext | None:
    """The trace that `passed_through` headers belong to; None where they belong to none."""
    found = _TRACEPARENT.fullmatch(passed.get(TRACEPARENT, ""))
    return None if found is None else TraceContext(found[1], found[2], int(found[3], 16))


def header_text(headers: Headers, name: str) -> str | None:
    """The last header of that name as text without control characters.

    None where it is absent or null, is not UTF-8, or is longer than 1,024 bytes.
    """
    value = next((v for key, v in reversed(headers or ()) if key == name), None)
    if value is None or len(value) > _MAX_READ_BYTES:
        return None
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return None
    return _CONTROL.sub("", text)


def _common(event: JobEvent, ce_id: str, source: str, now: datetime) -> dict[str, str]:
    return {
        "content-type": CONTENT_TYPE,
        "ce_specversion": "1.0",
        "ce_id": ce_id,
        "ce_type": event_type_name(event),
        "ce_source": source,
        "ce_time": _instant(now),
        "job-id": event.job_id,
    }


def _instant(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="milliseconds")


def _headers(own: Mapping[str, str], passed: Mapping[str, str] | None) -> Framing:
    kept = passed_through(tuple((passed or {}).items()))
    return tuple((name, _clean(value)) for name, value in (dict(own) | kept).items())


def _clean(value: str) -> bytes:
    return _CONTROL.sub("", value)[:MAX_VALUE_CHARS].encode("utf-8", "replace")
