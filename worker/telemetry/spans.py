"""OpenTelemetry spans of jobs. Only imported if an OTLP endpoint is configured (`Settings.traces_url`).

A job has a `process <topic>` span, a child of the span in the request's `traceparent`. Its children are the job's
phases and a `send <topic>` span for the result. Names and attributes follow the semantic conventions for messaging
(https://opentelemetry.io/docs/specs/semconv/messaging/kafka/, in development as of 1.44). Prompts are never exported.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.util.re import parse_env_headers

from worker import __version__
from worker.errors import ErrorCode
from worker.events.headers import TRACEPARENT, TraceContext, trace_context
from worker.failure import Failure
from worker.job import Job, Origin
from worker.settings import Settings
from worker.telemetry import logs
from worker.topics import Topics

_log = structlog.get_logger()

# Time that the final export may add to a shutdown; the SDK's default is 30 s.
FLUSH_S = 3.0


@dataclass(slots=True)
class _Trace:
    """The open spans of one job; phases become spans when the job has ended, so that creating them delays nothing."""

    process: Span
    send: Span | None = None
    phases: list[tuple[str, float, float]] = field(default_factory=list)


class Spans:
    """Creates and ends the spans of jobs.

    It may be called from any thread, because only one thread handles a job at a time. Times are seconds since the
    epoch.
    """

    def __init__(self, provider: TracerProvider, topics: Topics, group: str, client: str) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("sdxl-worker", __version__)
        self._topics = topics
        self._common = {"messaging.system": "kafka", "messaging.client.id": client}
        self._group = group
        self._traces: dict[Origin, _Trace] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> Spans:
        """Export to `traces_url` on the SDK's thread; if the collector is unavailable, only spans are lost."""
        return cls(
            make_provider(settings), Topics(settings.kafka_topic_prefix), settings.kafka_group_id, settings.worker_id
        )

    def begin(self, job: Job | Failure, at: float) -> dict[str, str]:
        """Open the span of a request; return the headers that make other spans its children."""
        origin = job.origin
        process = self._tracer.start_span(
            f"process {origin.topic}",
            context=remote_parent(job.headers),
            kind=SpanKind.CONSUMER,
            attributes={
                **self._messaging("process", origin.topic, job),
                "messaging.destination.partition.id": str(origin.partition),
                "messaging.kafka.offset": origin.offset,
                "messaging.consumer.group.name": self._group,
                "sdxl_worker.priority": job.lane.label,
            },
            start_time=nanoseconds(at),
        )
        self._traces[origin] = _Trace(process)
        return _headers(process)

    def phase(self, origin: Origin, name: str, begin: float, end: float) -> None:
        """Record one phase of a job."""
        trace = self._traces.get(origin)
        if trace is not None:
            trace.phases.append((name, begin, end))

    def send(self, job: Job | Failure, attempt: int, code: ErrorCode | None, at: float) -> dict[str, str]:
        """Open the span of publishing the result; return the trace headers for the result."""
        trace = self._traces.get(job.origin)
        if trace is None:
            return {}
        trace.process.set_attribute("sdxl_worker.attempt", attempt)
        if code is not None:
            trace.process.set_attribute("error.type", code.value)
            # A cancelled job is not an error: the caller gets what it asked for.
            if code is not ErrorCode.CANCELLED:
                trace.process.set_status(StatusCode.ERROR, code.value)
        topic = self._topics.completed if code is None else self._topics.failed
        trace.send = self._tracer.start_span(
            f"send {topic}",
            context=set_span_in_context(trace.process),
            kind=SpanKind.PRODUCER,
            attributes=self._messaging("send", topic, job),
            start_time=nanoseconds(at),
        )
        return _headers(trace.send)

    def end(self, origin: Origin, at: float) -> None:
        """End the job's spans when its outcome is committed."""
        trace = self._traces.pop(origin, None)
        if trace is not None:
            self._close(trace, at)

    def release(self, origin: Origin, at: float) -> None:
        """The job is another worker's now; so is its result, if it has one already."""
        trace = self._traces.pop(origin, None)
        if trace is None:
            return
        trace.process.add_event("released", timestamp=nanoseconds(at))
        if trace.send is not None:
            trace.send.set_status(StatusCode.ERROR, "discarded")
        self._close(trace, at)

    def close(self) -> None:
        """Export the remaining spans within `FLUSH_S` seconds; spans not exported by then are lost."""
        shut_down(self._provider)

    def _close(self, trace: _Trace, at: float) -> None:
        context = set_span_in_context(trace.process)
        for name, begin, end in trace.phases:
            child = self._tracer.start_span(name, context=context, start_time=nanoseconds(begin))
            child.end(nanoseconds(max(begin, end)))
        for span in (trace.send, trace.process):
            if span is not None:
                span.end(nanoseconds(at))

    def _messaging(self, operation: str, topic: str, job: Job | Failure) -> dict[str, str]:
        return self._common | {
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": topic,
            "messaging.message.conversation_id": job.request.job_id[: logs.ID_CHARS],
        }


def make_provider(settings: Settings) -> TracerProvider:
    """Exports to `traces_url` on the SDK's thread; if the collector is unavailable, only spans are lost."""
    assert settings.traces_url is not None
    _log_through_structlog()
    secret = settings.otel_exporter_otlp_headers
    headers = parse_env_headers(secret.get_secret_value(), liberal=True) if secret else None
    provider = TracerProvider(resource=_resource(settings), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.traces_url, headers=headers)))
    return provider


def shut_down(provider: TracerProvider) -> None:
    """Export the remaining spans within `FLUSH_S` seconds; spans not exported by then are lost."""
    flush = threading.Thread(target=provider.shutdown, name="spans", daemon=True)
    flush.start()
    flush.join(FLUSH_S)
    if flush.is_alive():
        _log.warning("spans_lost", waited_s=FLUSH_S)


def remote_parent(passed: Mapping[str, str]) -> Context | None:
    """The context of the span that `passed_through` headers name; None where they name none."""
    parent = trace_context(passed)
    return None if parent is None else set_span_in_context(NonRecordingSpan(_remote(parent)))


def _resource(settings: Settings) -> Resource:
    own = Resource.create({"service.version": __version__, "service.instance.id": settings.worker_id})
    name = settings.otel_service_name
    if name is None and str(own.attributes[SERVICE_NAME]).startswith("unknown_service"):
        name = "sdxl-worker"
    return own if name is None else own.merge(Resource({SERVICE_NAME: name}))


def _remote(parent: TraceContext) -> SpanContext:
    return SpanContext(
        int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=TraceFlags(parent.flags)
    )


def _headers(span: Span) -> dict[str, str]:
    context = span.get_span_context()
    return {TRACEPARENT: str(TraceContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags))}


def nanoseconds(seconds: float) -> int:
    """Seconds since the epoch as OpenTelemetry takes them."""
    return round(seconds * 1e9)


class _Forward(logging.Handler):
    """Forwards the SDK's log records to structlog; `logging` would print plain text between the JSON lines."""

    def emit(self, record: logging.LogRecord) -> None:
        _log.log(record.levelno, "tracing", source=record.name, message=record.getMessage())


def _log_through_structlog() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.handlers = [_Forward(logging.WARNING)]
    logger.propagate = False
