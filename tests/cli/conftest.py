"""The command line against librdkafka's embedded broker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner, Result

from devtools.local.embedded import EmbeddedBroker
from worker.cli import app
from worker.client.connection import Record, connect
from worker.client.reader import Reader
from worker.events.headers import result_headers
from worker.events.single_object import SingleObjectCodec
from worker.events.types import Event, GenerationCompleted, GenerationFailed, GenerationStatus, timestamp
from worker.topics import Topics

CODEC = SingleObjectCodec()


@dataclass(frozen=True)
class Kafka:
    """The broker, and what a worker or a test would do with it."""

    broker: EmbeddedBroker
    topics: Topics

    def publish(self, *events: GenerationCompleted | GenerationFailed | GenerationStatus) -> None:
        """Produce results as a worker would."""
        names = {
            GenerationCompleted: self.topics.completed,
            GenerationFailed: self.topics.failed,
            GenerationStatus: self.topics.status,
        }
        producer = Producer({"bootstrap.servers": self.broker.bootstrap_servers})
        for event in events:
            topic = names[type(event)]
            value, _ = CODEC.encode(event, topic=topic)
            headers: Any = result_headers(event, source="/test", now=timestamp(1))
            producer.produce(topic, value, event.job_id, headers=list(headers))
        assert producer.flush(10) == 0

    def records(self, *topics: str) -> list[Record]:
        """All that the topics hold."""
        with connect() as connection, Reader(connection, topics) as reader:
            return list(reader.read_all())

    def events(self, *topics: str) -> list[Event]:
        """All that the topics hold, decoded."""
        return [CODEC.decode_any(r.value, topic=r.topic, headers=r.headers) for r in self.records(*topics)]


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Kafka]:
    """A broker with every topic; the settings of this process lead to it."""
    with EmbeddedBroker() as broker:
        broker.create_topics(partitions=3)
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("SCHEMA_REGISTRY_URL", raising=False)
        monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap_servers)
        yield Kafka(broker, Topics())


def sdxl(*arguments: str, stdin: str | None = None, columns: int = 100) -> Result:
    """Run a verb in this process."""
    return CliRunner().invoke(app, list(arguments), input=stdin, env={"COLUMNS": str(columns), "NO_COLOR": "1"})
