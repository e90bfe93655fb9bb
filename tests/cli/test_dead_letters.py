"""`dead-letters` against librdkafka's embedded broker; tests/path/test_resubmit.py has the transactions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.cli.conftest import CODEC, Kafka, sdxl
from worker.cli.dead_letters.letters import kind_of
from worker.cli.dead_letters.send import Resubmitter
from worker.delivery.messages import MessageWriter
from worker.events.types import GenerationRequest
from worker.job import Origin
from worker.outcome import Original
from worker.topics import Topics

GOOD = GenerationRequest(job_id="job-good", girl_id="luna", user_id=7, prompt="a lighthouse")
JSON = b'{"job_id": "job-json", "girl_id": "luna", "user_id": 7, "prompt": "a pier", "width": "768"}'


@pytest.fixture
def dead(kafka: Kafka) -> Kafka:
    """Four letters: JSON, a cut record, a whole request, and text; in this order."""
    value = CODEC.encode(GOOD, topic="t")[0]
    cut = value[: value.index(b"lighthouse")]
    bury(kafka, (b"job-json", JSON), (b"job-cut", cut), (b"job-good", value), (b"\xff", b"hello"))
    return kafka


def bury(kafka: Kafka, *records: tuple[bytes | None, bytes | None], smallest: bool = False) -> None:
    """Write dead letters as a worker does."""
    writer = MessageWriter(Topics(), "w1", "sdxl-worker")
    producer = Producer({"bootstrap.servers": kafka.broker.bootstrap_servers})
    for offset, (key, value) in enumerate(records):
        origin = Origin(kafka.topics.high, 2, offset, 1)
        headers = (("traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),)
        original = Original(key, value, headers, 1_700_000_000.5)
        outcome = writer.dead_letter(origin, original, f"starts with {(value or b'')[:2].hex(' ')}: no event")
        [message] = outcome.smallest if smallest else outcome.messages
        content: Any = message.value
        producer.produce(message.topic, content, message.key, headers=list(message.headers))
    assert producer.flush(10) == 0


def lines(*arguments: str) -> list[Any]:
    result = sdxl(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def requests(kafka: Kafka) -> list[tuple[str, Any]]:
    records = kafka.records(*kafka.topics.requests)
    return [(r.topic, CODEC.decode_any(r.value, topic=r.topic, headers=r.headers)) for r in records]


def test_the_list_says_where_from_and_why(dead: Kafka) -> None:
    found = lines("dead-letters", "list")
    assert [one["place"] for one in found] == ["0/0", "0/1", "0/2", "0/3"]
    assert found[0] | {"time": None} == {
        "place": "0/0", "time": None, "topic": dead.topics.high, "partition": 2, "offset": 0,
        "original_time": "2023-11-14T22:13:20+00:00", "key": "job-json", "bytes": len(JSON),
        "reason": "starts with 7b 22: no event", "resubmitted_to": None,
    }  # fmt: skip
    shown = sdxl("dead-letters", "list").stdout
    assert "generation.requests.high 2/0  job-json  starts with 7b 22" in shown
    assert "\\xff" not in shown


def test_filters(dead: Kafka) -> None:
    def places(*arguments: str) -> list[str]:
        return [one["place"] for one in lines("dead-letters", "list", *arguments)]

    assert places("--reason", "STARTS WITH C3 01") == ["0/1", "0/2"]
    assert places("--key", "job-cut") == ["0/1"]
    assert places("--topic", dead.topics.normal) == []
    assert places("--since", "1h") == ["0/0", "0/1", "0/2", "0/3"]
    assert places("--until", "1h") == []
    counts = lines("dead-letters", "list", "--by-reason")
    assert counts[0] == {"reason": kind_of("starts with c3 01: no event"), "count": 2}
    assert sum(one["count"] for one in counts) == 4


def test_reasons_that_differ_in_numbers_are_one_kind() -> None:
    one = kind_of("unknown schema fingerprint 0123456789abcdef: is the writer newer?")
    assert one == kind_of("unknown schema fingerprint fedcba9876543210: is the writer newer?")
    assert one == "unknown schema fingerprint …: is the writer newer?"
    assert kind_of("a decade of faced deeds") == "a decade of faced deeds"


@pytest.mark.usefixtures("dead")
def test_show_reads_as_far_as_it_goes() -> None:
    [found] = lines("dead-letters", "show", "0/1")
    assert (found["framing"], found["schema"], found["stopped_at"]) == ("single-object", "GenerationRequest", "prompt")
    assert found["fields"] == {"job_id": "job-good", "girl_id": "luna", "user_id": 7}
    shown = sdxl("dead-letters", "show", "0/1").stdout
    assert "prompt and those after it cannot be read" in shown
    assert "000000  c3 01" in shown
    assert json.loads(sdxl("dead-letters", "show", "0/0", "--fields").stdout) == json.loads(JSON)
    assert "It is a whole GenerationRequest here and now." in sdxl("dead-letters", "show", "0/2").stdout


@pytest.mark.usefixtures("dead")
def test_what_is_not_there() -> None:
    for place in ("0/9", "0/4"):
        result = sdxl("dead-letters", "show", place)
        assert result.exit_code == 1
        assert f"no dead letter {place}" in result.stderr
    assert "partition 7" in sdxl("dead-letters", "show", "7/0").stderr
    assert sdxl("dead-letters", "show", "seven").exit_code == 2
    assert "no field of it can be read" in sdxl("dead-letters", "show", "0/3", "--fields").stderr


def test_a_letter_that_would_come_back_is_not_sent(dead: Kafka) -> None:
    result = sdxl("dead-letters", "resubmit", "0/0", "0/1", "0/3")
    assert result.exit_code == 1
    assert result.stderr.count("it would come back") == 3
    assert requests(dead) == []


def test_unchanged_and_never_twice(dead: Kafka) -> None:
    result = sdxl("dead-letters", "resubmit", "--all", "--dry-run")
    assert "0/2 would be sent to generation.requests.high, key job-good" in result.stdout
    assert requests(dead) == []
    result = sdxl("dead-letters", "resubmit", "--all")
    assert (result.exit_code, result.stdout) == (1, "0/2 sent to generation.requests.high, key job-good\n")
    [record] = dead.records(*dead.topics.requests)
    assert (record.key, record.value) == (b"job-good", CODEC.encode(GOOD, topic="t")[0])
    # The sender's own headers, and where it comes from; nothing of how it died.
    assert [name for name, _ in record.headers or ()] == ["traceparent", "dlq-resubmitted-from"]
    again = sdxl("dead-letters", "resubmit", "0/2")
    assert (again.exit_code, again.stdout) == (0, "")
    assert "0/2: was sent again before, to generation.requests.high" in again.stderr
    assert sdxl("dead-letters", "resubmit", "0/2", "--set", "width=512").stdout == ""
    assert len(requests(dead)) == 1
    assert [one["place"] for one in lines("dead-letters", "list", "--pending")] == ["0/0", "0/1", "0/3"]
    assert lines("dead-letters", "list")[2]["resubmitted_to"] == dead.topics.high


def test_without_transactions_the_note_comes_after_the_request(dead: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELIVERY", "at-least-once")
    produced: list[str] = []
    real = Resubmitter._one

    def one(self: Resubmitter, topic: str, *rest: Any) -> None:
        produced.append(topic)
        real(self, topic, *rest)

    monkeypatch.setattr(Resubmitter, "_one", one)
    for _ in range(2):
        assert sdxl("dead-letters", "resubmit", "0/2").exit_code == 0
    assert produced == [dead.topics.high, dead.topics.dead_letter]
    assert len(requests(dead)) == 1


def test_a_second_letter_of_the_same_record_is_not_sent(dead: Kafka) -> None:
    """At-least-once delivery may write a dead letter twice."""
    value = CODEC.encode(GOOD, topic="t")[0]
    bury(dead, (b"a", b"x"), (b"b", b"y"), (b"job-good", value))
    assert sdxl("dead-letters", "resubmit", "--all", "--reason", "c3 01").stdout.count("sent to") == 1
    assert len(requests(dead)) == 1


def test_a_correction_of_one_field(dead: Kafka) -> None:
    result = sdxl("dead-letters", "resubmit", "0/0", "--set", "width=768", "--set", "prompt=7")
    assert result.exit_code == 0, result.output
    [(topic, request)] = requests(dead)
    assert (topic, request.job_id, request.width, request.prompt) == (dead.topics.high, "job-json", 768, "7")
    [record] = dead.records(*dead.topics.requests)
    headers = dict(record.headers or ())
    assert record.key == b"job-json"
    assert headers["traceparent"].startswith(b"00-a")  # type: ignore[union-attr,arg-type]
    assert headers["dlq-resubmitted-from"] == b"generation.dead-letter 0/0"


def test_a_correction_names_what_is_still_wrong(dead: Kafka) -> None:
    for arguments, told in (
        (("--set", "width=wide"), "width: "),
        (("--set", "height=512"), "width: "),
        (("--unset", "prompt", "--set", "width=512"), "prompt: "),
    ):
        result = sdxl("dead-letters", "resubmit", "0/0", *arguments)
        assert result.exit_code == 1
        assert told in result.stderr, arguments
    for arguments in (("--set", "wide=1"), ("--set", "width"), ("--edited", "none.json")):
        assert sdxl("dead-letters", "resubmit", "0/0", *arguments).exit_code in (1, 2)
    assert requests(dead) == []


def test_what_cannot_be_read_gets_no_default_in_silence(dead: Kafka) -> None:
    result = sdxl("dead-letters", "resubmit", "0/1", "--set", "prompt=a pier")
    assert result.exit_code == 1
    assert "prompt and the fields after it cannot be read" in result.stderr
    assert sdxl("dead-letters", "resubmit", "0/1", "--set", "prompt=a pier", "--partial").exit_code == 0
    [(_, request)] = requests(dead)
    assert (request.job_id, request.girl_id, request.prompt) == ("job-good", "luna", "a pier")


def test_an_edited_request(dead: Kafka) -> None:
    fields = json.loads(JSON) | {"width": 512}
    result = sdxl("dead-letters", "resubmit", "0/3", "--edited", "-", "--lane", "urgent", stdin=json.dumps(fields))
    assert result.exit_code == 0, result.output
    [(topic, request)] = requests(dead)
    assert (topic, request.width, request.prompt) == (dead.topics.urgent, 512, "a pier")
    for stdin in ("[]", "{", '{"girl": 1}'):
        assert sdxl("dead-letters", "resubmit", "0/1", "--edited", "-", stdin=stdin).exit_code in (1, 2)


def test_a_missing_job_id_is_the_same_on_every_call(kafka: Kafka) -> None:
    fields = '{"girl_id": "luna", "user_id": 7, "prompt": "a pier"}'
    bury(kafka, (b"from-the-key", fields.encode()), (b"no/name", fields.encode()), (None, fields.encode()))
    planned = [lines("dead-letters", "resubmit", "--all", "--set", "width=512", "--dry-run") for _ in range(2)]
    assert planned[0] == planned[1]
    assert planned[0][0]["key"] == "from-the-key"
    assert len({one["key"] for one in planned[0]}) == 3


def test_bytes_that_were_left_out_are_fetched(kafka: Kafka) -> None:
    value = CODEC.encode(GOOD, topic="t")[0]
    producer = Producer({"bootstrap.servers": kafka.broker.bootstrap_servers})
    producer.produce(kafka.topics.high, value, "job-good", partition=2)
    assert producer.flush(10) == 0
    bury(kafka, (b"job-good", value), smallest=True)
    [found] = lines("dead-letters", "show", "0/0")
    assert (found["bytes"], found["fields"]["prompt"]) == (len(value), GOOD.prompt)
    assert sdxl("dead-letters", "resubmit", "0/0").exit_code == 0
    assert [request for _, request in requests(kafka)] == [GOOD, GOOD]
    bury(kafka, (b"gone", b"x" * 7), (b"gone", b"x" * 7), smallest=True)
    assert "has expired" in sdxl("dead-letters", "show", "0/3").stderr


def test_letters_of_a_stranger(kafka: Kafka) -> None:
    """Somebody else's producer, without any of our headers: shown, and sent where the operator says."""
    producer = Producer({"bootstrap.servers": kafka.broker.bootstrap_servers})
    producer.produce(kafka.topics.dead_letter, b"\x1b[31mred", b"\x1b[2J", partition=0)
    producer.produce(kafka.topics.dead_letter, None, None, partition=0)
    assert producer.flush(10) == 0
    assert [one["topic"] for one in lines("dead-letters", "list")] == [None, None]
    for arguments in (("list",), ("show", "0/0"), ("show", "0/1")):
        result = sdxl("dead-letters", *arguments)
        assert result.exit_code == 0
        assert "\x1b" not in result.stdout
    result = sdxl("dead-letters", "resubmit", "0/1", "--edited", "-", stdin=JSON.decode().replace('"768"', "768"))
    assert result.exit_code == 0, result.output
    assert [topic for topic, _ in requests(kafka)] == [kafka.topics.normal]


@pytest.mark.usefixtures("dead")
def test_choosing() -> None:
    for arguments in ((), ("0/0", "--all"), ("0/0", "--reason", "x"), ("--all", "--edited", "x.json"), ("x",)):
        assert sdxl("dead-letters", "resubmit", *arguments).exit_code == 2
