"""`watch`, `status`, `cancel` and `topics` on the embedded broker, with events that the tests produce."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from confluent_kafka import Producer
from rich.console import Console

from tests.cli.conftest import CODEC, Kafka, sdxl
from tests.events.strategies import NOW, sample
from worker.cli.watch import parse_since
from worker.cli.watched import Summary
from worker.errors import ErrorCode
from worker.events.types import (
    GenerationCancellation,
    GenerationCompleted,
    GenerationFailed,
    GenerationStatus,
    JobStatus,
    Priority,
)

DONE = sample(GenerationCompleted, job_id="a", priority=Priority.URGENT, image_url="http://pictures/a.jpg")
FAILED = sample(GenerationFailed, job_id="b", error_code=ErrorCode.EXPIRED, error_message="too late")


def status_of(job_id: str, status: JobStatus, seconds: int = 0, **fields: Any) -> GenerationStatus:
    event: GenerationStatus = sample(
        GenerationStatus, job_id=job_id, status=status, updated_at=NOW + timedelta(seconds=seconds), **fields
    )
    return event


def test_watch_prints_results(kafka: Kafka) -> None:
    kafka.publish(DONE, FAILED, status_of("c", JobStatus.RUNNING))
    result = sdxl("watch", "--since", "beginning", "-n", "2")
    assert sorted(result.stdout.splitlines(), reverse=True) == [
        "2026-03-01T12:00:00Z urgent  completed a http://pictures/a.jpg (0.50 s, waited 0.50 s)",
        "2026-03-01T12:00:00Z unknown failed    b expired: too late",
    ]


@pytest.mark.parametrize(
    ("flags", "jobs"),
    [
        (("--lane", "urgent"), "a"),
        (("--girl-id", "luna", "--girl-id", "mia"), "bc"),
        (("--user-id", "7", "--lane", "high"), "c"),
        (("--failed",), "b"),
        (("--error-code", "expired"), "b"),
        (("--job-id", "a", "--job-id", "b"), "ab"),
    ],
)
def test_watch_shows_only_what_is_asked_for(kafka: Kafka, flags: tuple[str, ...], jobs: str) -> None:
    other = sample(GenerationCompleted, job_id="c", girl_id="mia", user_id=7, priority=Priority.HIGH)
    cancelled = sample(GenerationFailed, job_id="d", error_code=ErrorCode.INTERNAL)
    kafka.publish(replace(DONE, user_id=8), replace(FAILED, girl_id="luna", user_id=8), other)
    expected = set(jobs)
    if flags == ("--failed",):
        kafka.publish(cancelled)
        expected |= {"d"}
    result = sdxl("watch", "--since", "beginning", "-n", str(len(expected)), *flags, "--json")
    assert {json.loads(line)["job_id"] for line in result.stdout.splitlines()} == expected


def test_watch_refuses_a_code_that_is_none() -> None:
    result = sdxl("watch", "--error-code", "luck")
    assert result.exit_code == 2
    assert "the error codes are" in result.stderr


def test_the_summary_counts_by_lane_and_code() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
    with Summary(console, 0.0) as summary:
        for event in (DONE, DONE, FAILED, status_of("c", JobStatus.RUNNING)):
            summary.add(event)
        summary.refresh(60.0)
        assert summary.text() == "2 completed: urgent 2 (median wait 0.5 s); 1 failed: expired 1"
    assert summary.text() in console.file.getvalue()  # type: ignore[attr-defined]


def test_watch_with_status_as_json(kafka: Kafka) -> None:
    kafka.publish(DONE, status_of("c", JobStatus.RUNNING, step=3))
    result = sdxl("watch", "--since", "beginning", "-n", "2", "--status", "--json")
    lines = {line["topic"]: line for line in map(json.loads, result.stdout.splitlines())}
    assert lines[kafka.topics.completed]["type"] == "GenerationCompleted"
    assert lines[kafka.topics.status]["step"] == 3


def test_watch_goes_on_after_what_it_cannot_read(kafka: Kafka) -> None:
    producer = Producer({"bootstrap.servers": kafka.broker.bootstrap_servers})
    producer.produce(kafka.topics.completed, b"nonsense", partition=0)
    producer.flush(10)
    kafka.publish(FAILED)
    result = sdxl("watch", "--since", "beginning", "-n", "1")
    assert " failed    b " in result.stdout
    assert "generation.completed 0/0: starts with" in result.stderr or result.stderr == ""


def test_since() -> None:
    assert parse_since("90s", now=1_000) == 910_000
    assert parse_since("1.5h", now=10_000) == 4_600_000
    assert parse_since("1970-01-01T00:00:01Z", now=0) == 1_000
    for bad in ("soon", "10", "2026-01-01T00:00:00"):
        with pytest.raises(ValueError, match=r"timezone|neither"):
            parse_since(bad, now=0)
    assert sdxl("watch", "--since", "soon").exit_code == 2


def test_status_is_the_latest(kafka: Kafka) -> None:
    kafka.publish(status_of("a", JobStatus.QUEUED), status_of("b", JobStatus.QUEUED))
    urls = {"image_url": "http://p/a.jpg", "thumbnail_url": "http://p/a_thumb.jpg", "generation_time": 2.34}
    kafka.publish(status_of("a", JobStatus.RUNNING, 1, step=2), status_of("a", JobStatus.COMPLETED, 2, **urls))
    result = sdxl("status", "a", "--json")
    assert json.loads(result.stdout) == {
        "job_id": "a",
        "status": "completed",
        **urls,
        "updated_at": "2026-03-01T12:00:02.250+00:00",
    }
    assert "http://p/a_thumb.jpg" in sdxl("status", "a").stdout


def test_status_of_a_failed_job_says_why(kafka: Kafka) -> None:
    code = ErrorCode.CONTENT_REJECTED
    kafka.publish(status_of("a", JobStatus.FAILED, error_code=code, error_message="not this"))
    answer = json.loads(sdxl("status", "a", "--json").stdout)
    assert (answer["error_code"], answer["error_message"]) == ("content_rejected", "not this")


def test_status_finds_a_job_wherever_another_partitioner_put_it(kafka: Kafka) -> None:
    producer = Producer({"bootstrap.servers": kafka.broker.bootstrap_servers, "partitioner": "murmur2"})
    for number in range(12):
        event = status_of(f"job-{number}", JobStatus.QUEUED)
        value, _ = CODEC.encode(event, topic=kafka.topics.status)
        producer.produce(kafka.topics.status, value, event.job_id)
    producer.flush(10)
    for number in range(12):
        assert sdxl("status", f"job-{number}").exit_code == 0


def test_status_of_a_dead_letter_says_why(kafka: Kafka) -> None:
    headers: Any = {
        "dlq-topic": "generation.requests.high",
        "dlq-partition": "2",
        "dlq-offset": "17",
        "dlq-error": "no Avro",
    }
    producer = Producer({"bootstrap.servers": kafka.broker.bootstrap_servers})
    producer.produce(kafka.topics.dead_letter, b"{}", "a", headers=headers)
    producer.produce(kafka.topics.dead_letter, b"{}", None, headers={**headers, "job-id": "b"})
    assert producer.flush(10) == 0
    for job_id in ("a", "b"):
        result = sdxl("status", job_id, "--json")
        assert result.exit_code == 0
        told = json.loads(result.stdout)
        assert (told["status"], told["error_message"]) == ("dead-letter", "no Avro")
        assert told["record"] == "generation.requests.high 2/17"
    assert "no Avro" in sdxl("status", "a").stdout
    # A status of the job itself counts more: its id was used again.
    kafka.publish(status_of("a", JobStatus.COMPLETED))
    assert json.loads(sdxl("status", "a", "--json").stdout)["status"] == "completed"


@pytest.mark.usefixtures("kafka")
def test_an_unknown_job_is_exit_code_1() -> None:
    result = sdxl("status", "nobody", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"job_id": "nobody", "status": "unknown"}
    assert "nobody" in result.stderr


def test_cancel(kafka: Kafka) -> None:
    assert sdxl("cancel", "a", "--reason", "changed her mind").exit_code == 0
    [record] = kafka.records(kafka.topics.cancellations)
    [event] = kafka.events(kafka.topics.cancellations)
    assert isinstance(event, GenerationCancellation)
    assert (record.key, event.reason) == (b"a", "changed her mind")
    assert json.loads(sdxl("cancel", "b", "--json").stdout)["job_id"] == "b"


def test_topics_describe(kafka: Kafka) -> None:
    kafka.publish(DONE)
    result = sdxl("topics", "describe", "--json")
    topics = {topic["topic"]: topic for topic in map(json.loads, result.stdout.splitlines())}
    assert topics[kafka.topics.completed]["records"] == 1
    assert topics[kafka.topics.completed]["records_exact"]
    assert len(topics[kafka.topics.urgent]["partitions"]) == 3
    assert "generation.requests.urgent" in sdxl("topics", "describe").stdout


@pytest.mark.usefixtures("kafka")
def test_topics_describe_fails_when_some_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", "other.")
    result = sdxl("topics", "describe")
    assert result.exit_code == 1
    assert "other.generation.status" in result.stderr


def test_topics_create_tells_what_is_new(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(_config: Any, topics: Any, partitions: int, replication: int) -> tuple[str, ...]:
        assert (partitions, replication) == (6, 1)
        return (topics.urgent,)

    monkeypatch.setattr("worker.cli.topics.create_topics", create)
    answer = json.loads(sdxl("topics", "create", "--partitions", "6", "--json").stdout)
    assert answer["created"] == [kafka.topics.urgent]
    assert len(answer["existed"]) == 7


@pytest.mark.usefixtures("kafka")
def test_topics_create_says_what_is_wrong() -> None:
    result = sdxl("topics", "create", "--partitions", "3")
    assert result.exit_code == 1
    assert "no controller" in result.stderr


@pytest.mark.usefixtures("kafka")
def test_a_missing_topic_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", "other.")
    result = sdxl("status", "a")
    assert result.exit_code == 1
    assert "topics create" in result.stderr
