"""Spans of jobs that end in less usual ways, and the job log's lines about them, exported to memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from structlog.testing import capture_logs

from tests.harness import small_request
from worker.errors import ErrorCode, SettingsError
from worker.failure import Failure
from worker.intake.admit import AdmissionRules, Arrival, admit
from worker.job import Job, Lane, Origin
from worker.settings import Settings, load_settings
from worker.telemetry import spans
from worker.telemetry.job_log import JobLog
from worker.telemetry.spans import Spans
from worker.topics import Topics

SETTINGS = Settings(_env_file=None)
ORIGIN = Origin("requests", 3, 42, 1)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Story:
    """A journal with its spans and lines kept."""

    def __init__(self) -> None:
        self._memory = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self.job_log = JobLog(Spans(provider, Topics(), "group", "worker-1"))

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._memory.get_finished_spans()}


def job(traceparent: str | None = f"00-{TRACE}-00f067aa0ba902b7-01", **fields: Any) -> Job:
    headers = {"traceparent": traceparent} if traceparent else {}
    return admit(small_request(**fields), Arrival(ORIGIN, Lane.HIGH, 1.0, headers), AdmissionRules(SETTINGS), 2.0)


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_job_that_is_released_ends_without_an_error(story: Story) -> None:
    story.job_log.on_admitted(job())
    story.job_log.on_released(ORIGIN, 5.0)
    [span] = story.spans.values()
    assert (span.start_time, span.end_time) == (2_000_000_000, 5_000_000_000)
    assert [event.name for event in span.events] == ["released"]
    assert span.status.status_code is StatusCode.UNSET


def test_a_result_that_was_not_ours_to_send_any_more_is_an_error_of_the_sending(story: Story) -> None:
    story.job_log.on_stored(story.job_log.on_admitted(job()), 4.0)
    story.job_log.on_released(ORIGIN, 5.0)
    assert story.spans["send generation.completed"].status.status_code is StatusCode.ERROR
    assert story.spans["process requests"].status.status_code is StatusCode.UNSET


def test_a_cancelled_job_is_no_error(story: Story) -> None:
    failure = Failure.of(story.job_log.on_admitted(job()), ErrorCode.CANCELLED, "as asked")
    story.job_log.on_failed(failure, 4.0)
    story.job_log.on_committed(ORIGIN, 5.0)
    process = story.spans["process requests"]
    assert process.status.status_code is StatusCode.UNSET
    assert process.attributes is not None
    assert process.attributes["error.type"] == "cancelled"


def test_progress_belongs_to_the_processing_and_the_result_to_the_sending(story: Story) -> None:
    taken = story.job_log.on_admitted(job())
    sent = story.job_log.on_stored(taken, 4.0)
    story.job_log.on_committed(ORIGIN, 5.0)
    for name, headers in (("process requests", taken.headers), ("send generation.completed", sent.headers)):
        context = story.spans[name].context
        assert context is not None
        assert headers["traceparent"] == f"00-{TRACE}-{context.span_id:016x}-01"


def test_what_the_producer_does_not_sample_is_not_exported_but_goes_on(story: Story) -> None:
    taken = story.job_log.on_admitted(job(f"00-{TRACE}-00f067aa0ba902b7-00"))
    sent = story.job_log.on_stored(taken, 4.0)
    story.job_log.on_committed(ORIGIN, 5.0)
    assert story.spans == {}
    assert sent.headers["traceparent"].split("-")[1::2] == [TRACE, "00"]


def test_a_hostile_id_is_cut(story: Story) -> None:
    request = small_request(job_id="x" * 900_000)
    failure = Failure(request=request, lane=Lane.HIGH, origin=ORIGIN, code=ErrorCode.INVALID_REQUEST, message="no",
                      requested_at=1.0)  # fmt: skip
    with capture_logs() as lines:
        story.job_log.on_failed(failure, 4.0)
        story.job_log.on_committed(ORIGIN, 5.0)
    assert [len(line["job_id"]) for line in lines] == [128]
    attributes = story.spans["process requests"].attributes
    assert attributes is not None
    assert len(str(attributes["messaging.message.conversation_id"])) == 128


def test_what_comes_after_the_end_is_ignored(story: Story) -> None:
    taken = story.job_log.on_admitted(job())
    story.job_log.on_released(ORIGIN, 5.0)
    story.job_log.on_released(ORIGIN, 6.0)
    story.job_log.phase(ORIGIN, "decode", 1.0, 2.0)
    assert story.job_log.on_stored(taken, 7.0).headers == taken.headers
    assert list(story.spans) == ["process requests"]


def test_the_flush_at_the_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            del spans
            return SpanExportResult.FAILURE

        def shutdown(self) -> None:
            time.sleep(2)

    monkeypatch.setattr(spans, "FLUSH_S", 0.1)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Stuck()))
    before = time.monotonic()
    with capture_logs() as lines:
        Spans(provider, Topics(), "group", "worker-1").close()
    assert time.monotonic() - before < 1
    assert [line["event"] for line in lines] == ["spans_lost"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/x"}, "http://c:4318/x"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, None),
    ],
)
def test_spans_are_made_only_for_an_endpoint(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load_settings().traces_url == expected


def test_another_protocol_than_ours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(SettingsError, match="http/protobuf"):
        load_settings()
