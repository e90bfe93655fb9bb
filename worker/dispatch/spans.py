"""OpenTelemetry spans of a dispatcher. Only imported if an OTLP endpoint is configured (`Settings.traces_url`).

A request has a `dispatch <topic>` span from its reading until it is durable in a work topic, a child of the span in the
request's `traceparent`. That header goes on to the worker unchanged, so the worker's `process` span stands beside it.
Its child `send <work topic>` begins when a worker was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, set_span_in_context

from worker import __version__
from worker.events.headers import passed_through
from worker.intake.ledger import TopicPartition as Key
from worker.intake.records import Record
from worker.job import Origin
from worker.settings import Settings
from worker.telemetry import logs
from worker.telemetry.spans import make_provider, nanoseconds, remote_parent, shut_down


@dataclass(frozen=True, slots=True)
class _Trace:
    dispatch: Span
    send: Span


class DispatchSpans:
    """Any thread may call it, one at a time for a record. Times are seconds since the epoch."""

    def __init__(self, provider: TracerProvider, group: str, client: str) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("sdxl-worker", __version__)
        self._common = {"messaging.system": "kafka", "messaging.client.id": client}
        self._group = group
        self._traces: dict[Origin, _Trace] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> DispatchSpans:
        """Export as a worker does; `settings` are those of a dispatcher."""
        return cls(make_provider(settings), settings.kafka_group_id, settings.worker_id)

    def send(self, record: Record, origin: Origin, place: Key, worker: str, *, read_at: float, now: float) -> None:
        """A request that was read at `read_at` is now on its way to a worker's partition."""
        key = (record.key or b"").decode("utf-8", "replace")[: logs.ID_CHARS]
        common = self._common | {"messaging.message.conversation_id": key}
        dispatch = self._tracer.start_span(
            f"dispatch {origin.topic}",
            context=remote_parent(passed_through(record.headers)),
            kind=SpanKind.CONSUMER,
            attributes={
                **common,
                "messaging.operation.name": "dispatch",
                "messaging.operation.type": "process",
                "messaging.destination.name": origin.topic,
                "messaging.destination.partition.id": str(origin.partition),
                "messaging.kafka.offset": origin.offset,
                "messaging.consumer.group.name": self._group,
                "sdxl_worker.worker_id": worker,
            },
            start_time=nanoseconds(read_at),
        )
        topic, partition = place
        send = self._tracer.start_span(
            f"send {topic}",
            context=set_span_in_context(dispatch),
            kind=SpanKind.PRODUCER,
            attributes={
                **common,
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": topic,
                "messaging.destination.partition.id": str(partition),
            },
            start_time=nanoseconds(now),
        )
        self._traces[origin] = _Trace(dispatch, send)

    def end(self, origin: Origin, at: float) -> None:
        """It is durable there; a record without spans is ignored."""
        trace = self._traces.pop(origin, None)
        for span in () if trace is None else (trace.send, trace.dispatch):
            span.end(nanoseconds(at))

    def release(self, origin: Origin, at: float) -> None:
        """It was not written: its record has another owner by now."""
        trace = self._traces.get(origin)
        if trace is not None:
            trace.dispatch.add_event("released", timestamp=nanoseconds(at))
        self.end(origin, at)

    def close(self) -> None:
        """Export what is left, as `worker.telemetry.spans.shut_down`."""
        shut_down(self._provider)
