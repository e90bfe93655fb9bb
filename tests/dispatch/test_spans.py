"""The trace of a request through a dispatcher: its span, and the worker's beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from unittest.mock import Mock

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from devtools.bench.fleet.trace import Step, steps
from tests.dispatch.test_fleet_view import NORMAL, WORK, fleet, report
from tests.harness import small_request
from worker.delivery.publish import PublisherHooks
from worker.dispatch.dispatcher import Dispatcher
from worker.dispatch.spans import DispatchSpans
from worker.events.headers import passed_through
from worker.intake.admit import AdmissionRules, Arrival, admit
from worker.intake.ledger import Ledger
from worker.intake.records import Record
from worker.job import Lane, Origin
from worker.outcome import Outcome
from worker.settings import Settings
from worker.telemetry.spans import Spans
from worker.topics import Topics

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01".encode()
REQUESTS = Topics().normal


class Way:
    """A dispatcher whose records are requests, and whose clock is set by hand."""

    def __init__(self) -> None:
        self.memory = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.now = 100.0
        self.sent: list[Outcome] = []
        threads = Mock(now=lambda: self.now, monotonic=lambda: self.now)
        self.ledger = Ledger()
        self.ledger.assign(REQUESTS, 0, 0, None)
        self.dispatcher = Dispatcher(
            self.ledger, Mock(), threads, Mock(), fleet(),
            make_reader=lambda dispatcher: cast("Any", _Reader(dispatcher)),
            make_publisher=self._publisher,
            spans=DispatchSpans(self.provider, "sdxl-dispatch", "dispatcher-1"),
        )  # fmt: skip

    def _publisher(self, hooks: PublisherHooks) -> Any:
        self.hooks = hooks
        return Mock(enqueue=lambda outcome, _now: self.sent.append(outcome))

    def read(self, offset: int, *headers: tuple[str, bytes]) -> Origin:
        origin = self.ledger.deliver(REQUESTS, 0, offset)
        assert origin is not None
        self.dispatcher.take(Record(REQUESTS, 0, offset, b"job-1", b"value", list(headers), 99.9), origin)
        return origin

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.memory.get_finished_spans()}

    def family(self, name: str) -> tuple[str, str]:
        """The trace and the parent of a span, in hexadecimal digits; no parent is an empty text."""
        span = self.spans()[name]
        assert span.context is not None
        return f"{span.context.trace_id:032x}", "" if span.parent is None else f"{span.parent.span_id:016x}"


class _Reader:
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.retry_held: Callable[[], None] = lambda: None

    def take(self, record: Record, origin: Origin) -> None:
        arrival = Arrival(origin, Lane.NORMAL, record.written_at, passed_through(record.headers))
        self._dispatcher.on_admitted(
            admit(small_request(), arrival, AdmissionRules(Settings(_env_file=None)), 100.0), 0
        )


def test_the_dispatchers_span_and_the_workers_are_children_of_the_requests() -> None:
    way = Way()
    origin = way.read(0, ("traceparent", TRACEPARENT), ("mine", b"\xff"))
    way.now = 100.5  # no worker has room before
    way.dispatcher.hear(report("gpu-7"))
    way.dispatcher.dispatch()
    way.now = 100.75
    way.hooks.on_committed(origin)
    [message] = way.sent[0].messages
    assert message.headers[:2] == (("traceparent", TRACEPARENT), ("mine", b"\xff")), "as they came"
    dispatch, send = way.spans()[f"dispatch {REQUESTS}"], way.spans()[f"send {NORMAL}"]
    assert dispatch.context is not None
    assert way.family(dispatch.name) == (TRACE, PARENT)
    assert way.family(send.name) == (TRACE, f"{dispatch.context.span_id:016x}")
    assert (dispatch.start_time, send.start_time) == (100_000_000_000, 100_500_000_000)
    assert dispatch.end_time == send.end_time == 100_750_000_000
    assert dispatch.attributes is not None
    assert dispatch.attributes["sdxl_worker.worker_id"] == "gpu-7"
    # The worker reads what was passed on.
    arrival = Arrival(Origin(NORMAL, 0, 5, 1), Lane.NORMAL, 99.9, passed_through(list(message.headers)))
    job = admit(small_request(), arrival, AdmissionRules(Settings(_env_file=None)), 101.0)
    worker = Spans(way.provider, WORK, "sdxl-worker", "gpu-7")
    worker.begin(job, 101.0)
    worker.end(job.origin, 102.0)
    assert way.family(f"process {NORMAL}") == (TRACE, PARENT)


def test_a_record_that_goes_to_another_dispatcher_is_released() -> None:
    way = Way()
    origin = way.read(0)
    way.dispatcher.hear(report("gpu-7"))
    way.dispatcher.dispatch()
    way.hooks.on_not_owned(origin)
    way.hooks.on_committed(origin)
    span = way.spans()[f"dispatch {REQUESTS}"]
    assert span.parent is None
    assert [event.name for event in span.events] == ["released"]


def test_steps_are_told_in_order_with_children_below_their_parents() -> None:
    def span(name: str, number: bytes, parent: bytes, begin: float, end: float) -> Any:
        found = Mock(span_id=number, parent_span_id=parent, attributes=[])
        found.name, found.start_time_unix_nano, found.end_time_unix_nano = name, int(begin * 1e9), int(end * 1e9)
        return found

    spans = [
        span("process work", b"3", b"0", 10.5, 12.0),
        span("denoise", b"4", b"3", 10.75, 11.75),
        span("dispatch requests", b"1", b"0", 10.125, 10.25),
        span("send work", b"2", b"1", 10.1875, 10.25),
    ]
    assert steps(spans, 10.0) == [
        Step(0.0, 0.0, "request produced"),
        Step(0.125, 0.125, "dispatch requests"),
        Step(0.1875, 0.0625, "send work", 1),
        Step(0.5, 1.5, "process work"),
        Step(0.75, 1.0, "denoise", 1),
    ]
    assert steps(spans, 10.0)[2].line == "    187.5      62.5    send work"
