"""`submit`: requests from flags and from standard input, and following them to the end."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.cli.conftest import Kafka, sdxl
from tests.events.strategies import sample
from worker.client.connection import Sender
from worker.errors import ErrorCode
from worker.events.headers import Input, header_text
from worker.events.types import (
    GenerationCompleted,
    GenerationFailed,
    GenerationRequest,
    GenerationStatus,
    JobStatus,
    Lora,
    Priority,
)

WHO = ("--girl-id", "g", "--user-id", "7")


def line(**fields: Any) -> str:
    return json.dumps({"girl_id": "g", "user_id": 7, "prompt": "a fox"} | fields)


def test_flags_become_one_request(kafka: Kafka) -> None:
    result = sdxl(
        *("submit", *WHO, "--prompt", "a fox", "--priority", "urgent", "--steps", "12", "--size", "832x1216"),
        *("--lora", "ink:0.8", "--lora", "grain", "--format", "png", "--high-quality", "--nsfw", "5"),
        *("--expires-in", "60", "--seed", "3", "--job-id", "job-1", "--guidance", "5"),
    )
    assert (result.exit_code, result.stdout) == (0, "job-1\n"), result.stderr
    [record] = kafka.records(kafka.topics.urgent)
    [event] = kafka.events(kafka.topics.urgent)
    assert isinstance(event, GenerationRequest)
    assert record.key == b"job-1"
    assert header_text(record.headers, "priority") == "urgent"
    assert header_text(record.headers, "ce_source") == "/sdxl-worker/cli"
    assert (event.width, event.height, event.num_inference_steps) == (832, 1216, 12)
    assert event.loras == (Lora(name="ink", weight=0.8), Lora(name="grain"))
    assert event.priority is Priority.URGENT
    assert event.requested_at is not None
    assert event.expires_at is not None
    assert (event.expires_at - event.requested_at).total_seconds() == pytest.approx(60, abs=5)


def test_json_tells_where_the_request_went(kafka: Kafka) -> None:
    result = sdxl("submit", *WHO, "--prompt", "a fox", "--json")
    answer = json.loads(result.stdout)
    assert answer["status"] == "queued"
    assert (answer["topic"], answer["offset"]) == (kafka.topics.normal, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--prompt", "x"),
        (*WHO,),
        (*WHO, "--prompt", "x", "--size", "big"),
        (*WHO, "--prompt", "x", "--lora", "ink:much"),
        (*WHO, "--prompt", "x", "--format", "gif"),
        (*WHO, "--prompt", "x", "--steps", str(2**31)),
        ("-", "--prompt", "x"),
        ("-", "--high-quality"),
        ("requests.jsonl",),
    ],
)
def test_wrong_flags_send_nothing(kafka: Kafka, arguments: tuple[str, ...]) -> None:
    result = sdxl("submit", *arguments, stdin="")
    assert result.exit_code == 2
    assert kafka.records(*kafka.topics.requests) == []


def test_a_bad_line_is_named_and_the_others_are_sent(kafka: Kafka) -> None:
    lines = [line(job_id="a"), "{oops", "", line(job_id="b", priority="high"), line(user_id="x"), line(seed=2**64)]
    result = sdxl("submit", "-", stdin="\n".join(lines))
    assert result.exit_code == 1
    assert sorted(result.stdout.split()) == ["a", "b"]
    told = result.stderr.splitlines()
    assert [text.split(":")[0] for text in told] == ["line 2", "line 5", "line 6"]
    assert "not JSON" in told[0]
    assert "user_id" in told[1]
    assert len(kafka.records(*kafka.topics.requests)) == 2


def test_a_request_too_large_for_a_record_is_a_bad_line(kafka: Kafka) -> None:
    result = sdxl("submit", "-", stdin=line(prompt="x" * 1_100_000))
    assert result.exit_code == 1
    assert "line 1: " in result.stderr
    assert kafka.records(*kafka.topics.requests) == []


def results(job_id: str) -> list[Any]:
    running = sample(GenerationStatus, job_id=job_id, status=JobStatus.RUNNING, step=3, num_inference_steps=9)
    if job_id == "bad":
        code = ErrorCode.UNKNOWN_LORA
        return [running, sample(GenerationFailed, job_id=job_id, error_code=code, error_message="no [ink]")]
    url = f"http://pictures/{job_id}.jpg"
    return [running, sample(GenerationCompleted, job_id=job_id, image_url=url, generation_time=1.5)]


def answer_at_once(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker so quick that its results are there before `submit` reads anything."""
    flush = Sender.flush
    sent: list[str] = []

    def noted(self: Sender, topic: str, event: Input) -> None:
        sent.append(event.job_id)
        send(self, topic, event)

    def flushed(self: Sender) -> None:
        flush(self)
        kafka.publish(*(event for job_id in sent for event in results(job_id)))

    send = Sender.send
    monkeypatch.setattr(Sender, "send", noted)
    monkeypatch.setattr(Sender, "flush", flushed)


def test_wait_prints_the_urls(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    kafka.publish(sample(GenerationCompleted, job_id="a", image_url="http://an-older-one/"))
    answer_at_once(kafka, monkeypatch)
    lines = "\n".join(line(job_id=name) for name in ("a", "b"))
    result = sdxl("submit", "-", "--wait", "--timeout", "20", stdin=lines)
    assert result.exit_code == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == [
        "a completed http://pictures/a.jpg (1.50 s, waited 0.50 s)",
        "b completed http://pictures/b.jpg (1.50 s, waited 0.50 s)",
    ]
    # That it ran is news of another topic, which may come after its end.
    assert "completed   normal a" in result.stderr


def test_wait_fails_when_a_job_fails(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_at_once(kafka, monkeypatch)
    lines = "\n".join(line(job_id=name) for name in ("a", "bad"))
    result = sdxl("submit", "-", "--wait", "--json", stdin=lines)
    assert result.exit_code == 1
    answers = {
        answer["job_id"]: answer
        for answer in map(json.loads, result.stdout.splitlines())
        if answer["status"] != "queued"
    }
    assert answers["a"]["image_url"] == "http://pictures/a.jpg"
    assert (answers["bad"]["status"], answers["bad"]["error_code"]) == ("failed", "unknown_lora")


@pytest.mark.usefixtures("kafka")
def test_wait_gives_up_after_the_timeout() -> None:
    before = time.monotonic()
    result = sdxl("submit", *WHO, "--prompt", "x", "--job-id", "slow", "--wait", "--timeout", "0.3")
    assert result.exit_code == 1
    assert "slow had not ended after 0.3 s" in result.stderr
    assert time.monotonic() - before < 10


def test_what_is_never_acknowledged_is_an_error(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.client.connection.ACK_TIMEOUT_MS", 1_000)
    send = Sender.send

    def send_into_the_void(sender: Sender, topic: str, event: Input) -> None:
        kafka.broker.take_down(1)
        send(sender, topic, event)

    monkeypatch.setattr(Sender, "send", send_into_the_void)
    result = sdxl("submit", *WHO, "--prompt", "x")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "1 not acknowledged by 127.0.0.1" in result.stderr
