"""`dead-letters resubmit` on real Kafka: request and note are one transaction, and one run at a time has a say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner, Result

from devtools.local.kafka import KafkaCluster
from worker.cli import app
from worker.cli.dead_letters.letters import Filter, letters, resubmitted
from worker.cli.dead_letters.send import OvertakenError, Resubmission, Resubmitter
from worker.client.connection import Connection, connect
from worker.client.errors import CommandError
from worker.client.reader import Reader
from worker.delivery.messages import MessageWriter
from worker.events.single_object import SingleObjectCodec
from worker.events.types import GenerationRequest
from worker.job import Origin
from worker.outcome import Original
from worker.topic_admin import create_topics
from worker.topics import Topics

VALUE, _ = SingleObjectCodec().encode(
    GenerationRequest(job_id="job-1", girl_id="luna", user_id=7, prompt="a lighthouse"), topic="t"
)


@pytest.fixture
def connection(
    kafka: KafkaCluster, topics: Topics, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Connection]:
    """A cluster of this test's own topics, with one dead letter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", topics.prefix)
    create_topics(kafka.bootstrap_servers, topics, partitions=1)
    writer = MessageWriter(topics, "w1", "sdxl-worker")
    letter = writer.dead_letter(Origin(topics.high, 0, 0, 1), Original(b"job-1", VALUE, ()), "unexpected").messages[0]
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    assert isinstance(letter.value, bytes)
    producer.produce(letter.topic, letter.value, letter.key, headers=list(letter.headers))
    assert producer.flush(30) == 0
    with connect() as found:
        yield found


def sent(connection: Connection) -> int:
    """How many requests a read_committed consumer sees."""
    with Reader(connection, connection.topics.requests) as reader:
        return len(list(reader.read_all()))


def resubmission(connection: Connection) -> Resubmission:
    [letter] = letters(connection, Filter())
    return Resubmission(letter=letter, topic=connection.topics.high, key=b"job-1", value=VALUE, headers=())


def resubmit() -> Result:
    return CliRunner().invoke(app, ["dead-letters", "resubmit", "--all"])


def test_who_comes_second_takes_over(connection: Connection) -> None:
    one = resubmission(connection)
    with Resubmitter(connection) as first, Resubmitter(connection) as second:
        # Both have seen that nothing was sent.
        assert resubmitted(connection) == {}
        with pytest.raises(OvertakenError):
            first.send([one])
        second.send([one])
    assert sent(connection) == 1
    assert resubmit().exit_code == 0
    assert sent(connection) == 1


def test_a_run_that_was_killed_has_sent_nothing(connection: Connection) -> None:
    one = resubmission(connection)
    with Resubmitter(connection) as killed:
        killed._producer.begin_transaction()
        killed._produce([one])
        killed._flush()
        # Killed here: both records are in the logs, and no commit.
        result = resubmit()
    assert "sent to" in result.stdout
    assert sent(connection) == 1
    assert list(resubmitted(connection)) == [one.letter.identity]


def test_what_one_record_is_refused_for_is_its_own_trouble(connection: Connection) -> None:
    good = resubmission(connection)
    bad = replace(good, value=b"x" * 3_000_000)
    with Resubmitter(connection) as resubmitter:
        with pytest.raises(CommandError, match="not sent"):
            resubmitter.send([good, bad])
        assert sent(connection) == 0
        resubmitter.send([good])
    assert sent(connection) == 1
