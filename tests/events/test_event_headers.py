"""Event headers: written and read."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.events.strategies import NOW, job_events, sample
from worker.errors import ErrorCode
from worker.events.headers import (
    Input,
    event_id,
    header_text,
    passed_through,
    report_headers,
    request_headers,
    result_headers,
)
from worker.events.types import (
    GenerationCancellation,
    GenerationCompleted,
    GenerationFailed,
    GenerationRequest,
    GenerationStatus,
    JobEvent,
    JobStatus,
    Priority,
    WorkerReport,
)

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SOURCE = "/sdxl-worker/gpu-1"


def headers_of(event: JobEvent, **more: Any) -> dict[str, str]:
    make: Any = request_headers if isinstance(event, Input) else result_headers
    return {name: value.decode() for name, value in make(event, source=SOURCE, now=NOW, **more)}


def test_a_request_carries_cloudevents_and_plain_headers() -> None:
    request = sample(GenerationRequest, job_id="job-1", priority=Priority.URGENT)
    assert headers_of(request, passed={"traceparent": TRACE}) == {
        "content-type": "application/avro",
        "ce_specversion": "1.0",
        "ce_id": event_id(request),
        "ce_type": "imagegen.events.v1.GenerationRequest",
        "ce_source": SOURCE,
        "ce_time": "2026-03-01T12:00:00.250+00:00",
        "job-id": "job-1",
        "priority": "urgent",
        "traceparent": TRACE,
    }


def test_a_worker_s_report_is_about_no_job() -> None:
    report = sample(WorkerReport, worker_id="gpu-1", session_id="s", sequence=3)
    assert {name: value.decode() for name, value in report_headers(report, source=SOURCE)} == {
        "content-type": "application/avro",
        "ce_specversion": "1.0",
        "ce_id": "s-3",
        "ce_type": "imagegen.events.v1.WorkerReport",
        "ce_source": SOURCE,
        "ce_time": "2026-03-01T12:00:00.250+00:00",
        "worker-id": "gpu-1",
    }


def test_a_cancellation_has_no_priority() -> None:
    assert "priority" not in headers_of(GenerationCancellation(job_id="a"))


def test_a_failure_carries_what_an_operator_filters_by() -> None:
    event = sample(GenerationFailed, worker_id="gpu-1", attempt=2, error_code=ErrorCode.EXPIRED)
    found = headers_of(event, duration_ms=1234)
    expected = {
        "worker-id": "gpu-1",
        "duration-ms": "1234",
        "status": "failed",
        "error-code": "expired",
        "attempt": "2",
    }
    assert found | expected == found


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (sample(GenerationCompleted), "completed"),
        (sample(GenerationFailed), "failed"),
        (sample(GenerationFailed, error_code=ErrorCode.CANCELLED), "cancelled"),
        (sample(GenerationStatus, status=JobStatus.QUEUED), "queued"),
    ],
)
def test_the_status_header_is_the_jobs_state(event: JobEvent, status: str) -> None:
    assert headers_of(event)["status"] == status


def test_a_success_has_no_error_code() -> None:
    assert "error-code" not in headers_of(sample(GenerationCompleted))


def test_a_completed_event_that_tells_of_the_same_picture_again_has_the_same_id() -> None:
    first = sample(GenerationCompleted, attempt=1, worker_id="a", completed_at=NOW)
    again = dataclasses.replace(first, attempt=2, worker_id="b", completed_at=NOW + timedelta(hours=1))
    assert event_id(first, ("t", 0, 5)) == event_id(again, ("t", 1, 9))


@pytest.mark.parametrize("change", [{"job_id": "x"}, {"girl_id": "x"}, {"sha256": "x"}, {"replay_id": "r"}])
def test_the_id_differs_for_another_job_girl_picture_or_replay(change: dict[str, Any]) -> None:
    event = sample(GenerationCompleted)
    assert event_id(event) != event_id(dataclasses.replace(event, **change))


def test_a_failed_event_that_answers_the_same_record_again_has_the_same_id() -> None:
    first = sample(GenerationFailed, attempt=1, worker_id="a")
    again = dataclasses.replace(first, attempt=2, worker_id="b")
    assert event_id(first, ("t", 0, 5)) == event_id(again, ("t", 0, 5))


@pytest.mark.parametrize("other", [("u", 0, 5), ("t", 1, 5), ("t", 0, 6)])
def test_two_records_that_fail_alike_have_two_ids(other: tuple[str, int, int]) -> None:
    event = sample(GenerationFailed)
    assert event_id(event, ("t", 0, 5)) != event_id(event, other)
    assert event_id(event, ("t", 0, 5)) != event_id(dataclasses.replace(event, girl_id="x"), ("t", 0, 5))
    assert event_id(event, ("t", 0, 5)) != event_id(dataclasses.replace(event, replay_id="r"), ("t", 0, 5))


def test_the_same_state_of_another_record_attempt_or_replay_has_another_id() -> None:
    event = sample(GenerationStatus, attempt=1)
    later = dataclasses.replace(event, attempt=2)
    places = [("t", 0, 5), ("t", 0, 6)]
    ids = {event_id(each, place, replay) for each in (event, later) for place in places for replay in (None, "r")}
    assert len(ids) == 8


def test_a_request_that_is_sent_anew_has_another_id_and_a_copy_the_same() -> None:
    request = sample(GenerationRequest, requested_at=NOW)
    assert event_id(request) == event_id(dataclasses.replace(request))
    assert event_id(request) != event_id(dataclasses.replace(request, requested_at=NOW + timedelta(seconds=1)))
    cancellation = GenerationCancellation(job_id="a", requested_at=NOW)
    assert event_id(cancellation) != event_id(dataclasses.replace(cancellation, reason="again"))


def test_the_header_names_the_record_that_is_answered() -> None:
    event, place = sample(GenerationFailed), ("t", 0, 5)
    assert headers_of(event, answers=place)["ce_id"] == event_id(event, place) != event_id(event)


def test_the_id_differs_by_type() -> None:
    ids = {event_id(sample(cls)) for cls in (GenerationCompleted, GenerationFailed, GenerationStatus)}
    assert len(ids) == 3


def test_every_progress_of_a_job_has_its_own_id() -> None:
    changes: list[dict[str, Any]] = [{"status": JobStatus.QUEUED}, {"step": 1}, {"step": 2}]
    assert len({event_id(sample(GenerationStatus, **change)) for change in changes}) == 3


@given(job_events)
def test_no_value_holds_a_control_character_or_exceeds_its_cap(event: JobEvent) -> None:
    hostile = dataclasses.replace(event, job_id=event.job_id + "a\r\nx: y\x00\x1b[2J" + "z" * 500)
    for value in headers_of(hostile, passed={"traceparent": "x\n"}).values():
        assert value.isprintable() or not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in value)
        assert len(value) <= 256


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"garbage",
        b"\xff\xfe",
        None,
        TRACE.upper().encode(),
        f"{TRACE}-more".encode(),
        b"ff" + TRACE[2:].encode(),
        f"00-{'0' * 32}-b7ad6b7169203331-01".encode(),
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01".encode(),
        TRACE.encode() * 1000,
    ],
)
def test_a_malformed_traceparent_is_dropped(value: bytes | None) -> None:
    assert passed_through([("traceparent", value)]) == {}


def test_only_traceparent_is_passed_through() -> None:
    assert passed_through([("x", b"y"), ("traceparent", TRACE.encode())]) == {"traceparent": TRACE}
    assert passed_through(None) == {}
    event = sample(GenerationCompleted)
    assert "x" not in headers_of(event, passed={"x": "y"})


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (None, None),
        ([], None),
        ([("other", b"a")], None),
        ([("name", None)], None),
        ([("name", b"\xff")], None),
        ([("name", b"a" * 1025)], None),
        ([("name", b"a" * 1024)], "a" * 1024),
        ([("name", b"first"), ("name", b"last")], "last"),
        ([("name", "text")], "text"),
        ([("name", "é\r\nb".encode())], "éb"),
    ],
)
def test_header_text_is_tolerant(headers: Any, expected: str | None) -> None:
    assert header_text(headers, "name") == expected


@given(st.lists(st.tuples(st.just("name"), st.none() | st.binary() | st.text())))
def test_header_text_never_raises(headers: list[tuple[str, bytes | str | None]]) -> None:
    text = header_text(headers, "name")
    assert text is None or "\n" not in text
