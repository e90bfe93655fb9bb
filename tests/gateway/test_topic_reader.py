"""The thread that reads the topics: to the end, and on through whatever fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import KafkaError, KafkaException

from tests.gateway.world import NOON, TOPICS
from worker.client.connection import Connection, Record
from worker.client.errors import CommandError
from worker.errors import RegistryUnavailable
from worker.events.single_object import SingleObjectCodec
from worker.events.types import Event, GenerationStatus, JobEvent, JobStatus
from worker.gateway import topic_reader
from worker.gateway.topic_reader import Seen, TopicReader
from worker.settings import Settings

CODEC = SingleObjectCodec()


def record(job_id: str, value: bytes | None = None) -> Record:
    event = GenerationStatus(job_id=job_id, status=JobStatus.QUEUED, updated_at=NOON)
    encoded = CODEC.encode(event, topic=TOPICS.status)[0] if value is None else value
    return Record(TOPICS.status, 0, 0, job_id.encode(), encoded, (), 0)


class Source:
    """Gives these, raises those that are errors, and is at its end after the last."""

    def __init__(self, items: list[Record | KafkaException], unanswered: str | None = None) -> None:
        self.items = list(items)
        self.partition_count = 1
        self.unanswered = unanswered
        self.closed = False

    @property
    def ended_count(self) -> int:
        return int(not self.items)

    def poll(self, timeout_s: float) -> Record | None:
        if not self.items:
            threading.Event().wait(min(timeout_s, 0.01))
            return None
        item = self.items.pop(0)
        if isinstance(item, KafkaException):
            raise item
        return item

    def close(self) -> None:
        self.closed = True


class Patchy(SingleObjectCodec):
    """A registry that does not answer the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def decode_any(self, data: bytes | None, *, topic: str | None, headers: object) -> Event:
        self.asked += 1
        if self.asked == 1:
            raise RegistryUnavailable("away")
        return super().decode_any(data, topic=topic, headers=headers)  # type: ignore[arg-type]


@contextmanager
def reading(*sources: Source | Exception, codec: SingleObjectCodec = CODEC) -> Iterator[tuple[TopicReader, list[Seen]]]:
    seen: list[Seen] = []
    turns = iter(sources)

    def opened() -> Source:
        source = next(turns, sources[-1])
        if isinstance(source, Exception):
            raise source
        return source

    reader = TopicReader(Connection(Settings(_env_file=None), TOPICS, codec), seen.extend, opened)
    reader.start()
    try:
        yield reader, seen
    finally:
        reader.stop()


def wait_until(true: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2_000):
        if true():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen in 20 s")


def ids(seen: list[Seen]) -> list[str]:
    return [one.event.job_id for one in seen if isinstance(one.event, JobEvent)]


def test_it_is_ready_at_the_end_of_the_topics_and_not_before() -> None:
    source = Source([record(f"job-{n}") for n in range(450)])
    with reading(source) as (reader, seen):
        assert reader.trouble is not None or reader.loaded
        wait_until(lambda: reader.trouble is None)
        assert reader.loaded
        assert len(seen) == 450
    assert source.closed


def test_what_cannot_be_read_is_left_out() -> None:
    items: list[Record | KafkaException] = [
        record("a"),
        record("b", b"no avro"),
        record("c", b"\xc3\x01" + b"x" * 99),
        record("d"),
    ]
    with reading(Source(items)) as (reader, seen):
        wait_until(lambda: reader.loaded)
        assert ids(seen) == ["a", "d"]


def test_a_tombstone_is_told() -> None:
    with reading(Source([record("a", b"")])) as (reader, seen):
        wait_until(lambda: reader.loaded)
        assert [(one.record.key, one.event) for one in seen] == [(b"a", None)]


def test_a_broker_that_is_away_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_reader, "PAUSE_S", 0.01)
    broken = Source([record("a"), KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))])
    whole = Source([record("a"), record("b")])
    with reading(CommandError("Kafka at x does not answer"), broken, whole) as (reader, seen):
        wait_until(lambda: reader.trouble is None)
        assert set(ids(seen)) == {"a", "b"}
        # It goes on telling that Kafka is away, though nothing is raised.
        whole.unanswered = "Kafka at 10.1.2.3 does not answer"
        wait_until(lambda: reader.trouble is not None)
        assert "10.1.2.3" not in str(reader.trouble)
        assert reader.loaded
        whole.unanswered = None
        wait_until(lambda: reader.trouble is None)
    assert broken.closed


def test_a_registry_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_reader, "PAUSE_S", 0.01)
    with reading(Source([record("a")]), codec=Patchy()) as (reader, seen):
        wait_until(lambda: reader.loaded)
        assert ids(seen) == ["a"]


class Broken(Source):
    def poll(self, timeout_s: float) -> Record | None:  # noqa: ARG002
        raise MemoryError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_ends_the_thread_and_is_told() -> None:
    with reading(Broken([])) as (reader, _):
        wait_until(lambda: not reader.alive)
