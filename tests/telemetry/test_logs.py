"""The fields that every log line about a job has."""

from __future__ import annotations

import structlog
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from worker.delivery.messages import MessageWriter
from worker.job import Origin
from worker.outcome import Original
from worker.telemetry import logs
from worker.topics import Topics

ORIGIN = Origin("requests", 3, 42, 1)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = [("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")]
PLACE = {"topic": "requests", "partition": 3, "offset": 42}


def test_a_record_is_named_by_its_key() -> None:
    assert logs.about_record(ORIGIN, b"job-1", HEADERS) == {"job_id": "job-1", "trace_id": TRACE, **PLACE}


def test_what_a_record_lacks_is_null() -> None:
    assert logs.about_record(ORIGIN, None, None) == {"job_id": None, "trace_id": None, **PLACE}


def test_a_hostile_key_is_cut_and_made_text() -> None:
    about = logs.about_record(ORIGIN, b"\xff" * 9_000, [("traceparent", b"00-zz")])
    assert (about["job_id"], about["trace_id"]) == ("\N{REPLACEMENT CHARACTER}" * 128, None)


def test_an_outcome_is_named_by_the_record_that_it_is_of() -> None:
    outcome = MessageWriter(Topics(), "worker-1").dead_letter(ORIGIN, Original(b"job-1", b"", HEADERS), "no event")
    assert logs.about_outcome(outcome) == {"job_id": "job-1", "trace_id": TRACE, **PLACE}


def test_lines_within_are_named_unless_they_name_themselves() -> None:
    with capture_logs([merge_contextvars]) as lines, logs.within({"job_id": "a"}):
        structlog.get_logger().info("one")
        structlog.get_logger().info("other", job_id="b")
    assert [line["job_id"] for line in lines] == ["a", "b"]
