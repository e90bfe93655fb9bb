"""Reading the cancellations topic, whatever state it, its records and the registry are in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition
from prometheus_client import REGISTRY

from tests.intake.test_cancelled_jobs import job
from worker.errors import RegistryUnavailable
from worker.events.single_object import SingleObjectCodec
from worker.events.types import E, GenerationCancellation
from worker.intake.cancellations import (
    CATCH_UP_S,
    LIST_AGAIN_S,
    LIST_SOON_S,
    MAX_HELD,
    REGISTRY_PAUSE_S,
    CancellationReader,
)
from worker.intake.cancelled_jobs import CancelledJobs

NOW = 1_800_000_000.0
TOPIC = "x.generation.cancellations"


class Registry503(SingleObjectCodec):
    """A codec whose registry refuses while `down`, and for some values always."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.poisoned: set[bytes] = set()
        self.headers: list[Any] = []

    def decode(self, data: bytes | None, *, topic: str, headers: Any, expected: type[E]) -> E:
        self.headers.append(headers)
        if self.down or data in self.poisoned:
            raise RegistryUnavailable("503")
        return super().decode(data, topic=topic, headers=headers, expected=expected)


class Message:
    """A confluent-kafka message; an error or the end of a partition where `error` is set."""

    def __init__(
        self,
        value: bytes | None = None,
        *,
        offset: int = 0,
        partition: int = 0,
        timestamp: tuple[int, int] = (1, int(NOW * 1000)),
        headers: list[tuple[str, bytes]] | None = None,
        error: int | None = None,
    ) -> None:
        self._value, self._offset, self._partition = value, offset, partition
        self._timestamp, self._headers, self._error = timestamp, headers, error
        self._asked = False

    def error(self) -> KafkaError | None:
        return None if self._error is None else KafkaError(self._error)

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> None:
        return None

    def value(self) -> bytes | None:
        return self._value

    def leader_epoch(self) -> int | None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return self._timestamp

    def headers(self) -> list[tuple[str, bytes]] | None:
        assert not self._asked, "asked a second time, confluent-kafka crashes the process"
        self._asked = True
        if any(name == "\udcff" for name, _ in self._headers or ()):
            raise SystemError("bad header name")
        return self._headers


@dataclass
class Topic:
    """A consumer of one topic, and the time."""

    partitions: set[int] = field(default_factory=lambda: {0})
    error: int | None = None
    unreachable: bool = False
    messages: deque[Message] = field(default_factory=deque)
    assigned: list[dict[int, int]] = field(default_factory=list)
    listed: int = 0
    clock: float = 100.0
    # What happens to the consumer when it is assigned partitions.
    on_assign: Callable[[], None] = lambda: None

    def list_topics(self, topic: str, timeout: float) -> SimpleNamespace:  # noqa: ARG002 - confluent-kafka's names
        self.listed += 1
        if self.unreachable:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        error = None if self.error is None else KafkaError(self.error)
        partitions = {} if error else dict.fromkeys(self.partitions)
        return SimpleNamespace(topics={topic: SimpleNamespace(partitions=partitions, error=error)})

    def assign(self, places: list[TopicPartition]) -> None:
        self.assigned.append({place.partition: place.offset for place in places})
        self.on_assign()

    def poll(self, timeout_s: float) -> Message | None:
        if self.messages:
            return self.messages.popleft()
        self.clock += timeout_s
        return None

    # The time.

    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds


@dataclass
class Reading:
    """A reader on a topic, and what it was told to cancel."""

    topic: Topic
    codec: Registry503
    jobs: CancelledJobs
    cancelled: list[str]
    reader: CancellationReader

    def read_all(self) -> None:
        while self.reader.tick():
            pass

    def is_cancelled(self, job_id: str, recorded_at: float | None = NOW) -> bool:
        return self.jobs.reason(job(recorded_at, job_id=job_id)) is not None


@pytest.fixture
def reading() -> Reading:
    topic, codec, jobs, cancelled = Topic(), Registry503(), CancelledJobs(), list[str]()
    reader = CancellationReader(cast("Any", topic), TOPIC, codec, jobs, cancelled.append, cast("Any", topic))
    return Reading(topic, codec, jobs, cancelled, reader)


def value_of(job_id: str, **fields: Any) -> bytes:
    return SingleObjectCodec().encode(GenerationCancellation(job_id=job_id, **fields), topic=TOPIC)[0]


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


END = KafkaError._PARTITION_EOF


class TestRecords:
    def test_headers_reach_the_codec_as_those_of_a_request_do(self, reading: Reading) -> None:
        header = ("__value_schema_id", b"\x00\x00\x00\x00\x07")
        reading.topic.messages.append(Message(value_of("a"), headers=[header]))
        reading.read_all()
        assert reading.codec.headers == [[header]]
        assert reading.cancelled == ["a"]

    def test_a_header_name_that_is_not_utf8_costs_nothing_else(self, reading: Reading) -> None:
        # Without its headers the record can be read, unless they hold the schema's id.
        reading.topic.messages += [Message(value_of("a"), headers=[("\udcff", b"")]), Message(value_of("b"), offset=1)]
        reading.read_all()
        assert reading.cancelled == ["a", "b"]

    @pytest.mark.parametrize(
        "bad",
        [
            None,
            b"",
            b"\xff",
            b"\xc3\x01",
            value_of("")[:-1],
            value_of("../up"),
            value_of("x" * 129),
            value_of("x" * 600_000),
        ],
    )
    def test_what_is_no_cancellation_is_counted_and_the_next_one_is_read(
        self, reading: Reading, bad: bytes | None
    ) -> None:
        before = sample("sdxl_worker_cancellations_total", result="unreadable")
        reading.topic.messages += [Message(bad), Message(value_of("b"), offset=1)]
        reading.read_all()
        assert reading.cancelled == ["b"]
        assert sample("sdxl_worker_cancellations_total", result="unreadable") - before == 1

    def test_whatever_a_foreign_schema_yields_does_not_end_the_thread(
        self, reading: Reading, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events: list[Any] = [GenerationCancellation(job_id=cast("Any", 5)), GenerationCancellation(job_id="b")]
        monkeypatch.setattr(reading.codec, "decode", lambda *_, **__: events.pop(0))
        reading.topic.messages += [Message(b"1"), Message(b"2", offset=1)]
        reading.read_all()
        assert reading.cancelled == ["b"]

    def test_the_reason_is_one_short_printable_line(self, reading: Reading) -> None:
        event = value_of("a", reason="no\r\n\x1b[2J\x00 more" + "z" * 5000, requested_by="me")
        reading.topic.messages.append(Message(event))
        reading.read_all()
        reason = reading.jobs.reason(job(NOW, job_id="a"))
        assert reason is not None
        assert reason.startswith("cancelled by me: no [2J more")
        assert reason.isprintable()
        assert len(reason) == 300

    @pytest.mark.parametrize("timestamp", [(0, -1), (1, -1), (1, 0), (1, 1), (2, 1), (1, -62_135_596_800_000)])
    def test_a_cancellation_of_no_usable_time_counts_from_when_it_is_read(
        self, reading: Reading, timestamp: tuple[int, int]
    ) -> None:
        reading.topic.messages.append(Message(value_of("a"), timestamp=timestamp))
        reading.read_all()
        assert reading.is_cancelled("a", NOW - 1)
        assert reading.jobs.reason(job(NOW + 60, job_id="a", received_at=NOW + 60)) is None

    def test_a_cancellation_from_the_future_does_not_cover_what_comes_later(self, reading: Reading) -> None:
        reading.topic.messages.append(Message(value_of("a"), timestamp=(1, int((NOW + 3600) * 1000))))
        reading.read_all()
        assert reading.is_cancelled("a", NOW - 1)
        assert reading.jobs.reason(job(NOW + 60, job_id="a", received_at=NOW + 60)) is None


class TestRegistry:
    def test_a_cancellation_waits_for_the_registry(self, reading: Reading) -> None:
        reading.codec.down = True
        reading.topic.messages.append(Message(value_of("a")))
        reading.read_all()
        assert reading.cancelled == []
        assert reading.reader.problem == "1 cancellations wait for the schema registry"
        assert sample("sdxl_worker_cancellations_held") == 1
        reading.codec.down = False
        reading.topic.clock += REGISTRY_PAUSE_S
        reading.read_all()
        assert reading.cancelled == ["a"]
        assert reading.reader.problem is None
        assert sample("sdxl_worker_cancellations_held") == 0

    def test_one_that_cannot_be_decoded_holds_up_no_other(self, reading: Reading) -> None:
        reading.codec.poisoned = {value_of("poison")}
        reading.codec.down = True
        values = [value_of("poison"), value_of("a"), value_of("b")]
        reading.topic.messages += [Message(value, offset=n) for n, value in enumerate(values)]
        reading.read_all()
        reading.codec.down = False
        reading.topic.messages.append(Message(value_of("new"), offset=3))
        for _ in range(5):
            reading.read_all()
            reading.topic.clock += REGISTRY_PAUSE_S
        assert sorted(reading.cancelled) == ["a", "b", "new"]
        assert reading.reader.problem == "1 cancellations wait for the schema registry"

    def test_what_waits_has_a_bound_and_nothing_beyond_it_is_lost(self, reading: Reading) -> None:
        reading.codec.down = True
        ids = [f"job-{number}" for number in range(MAX_HELD + 5)]
        reading.topic.messages += [Message(value_of(job_id), offset=n) for n, job_id in enumerate(ids)]
        for _ in range(MAX_HELD + 50):
            reading.reader.wait(0.001)
        assert len(reading.topic.messages) == 5
        reading.codec.down = False
        reading.topic.clock += REGISTRY_PAUSE_S
        reading.read_all()
        assert sorted(reading.cancelled) == sorted(ids)

    def test_it_sleeps_while_nothing_more_may_be_read(self, reading: Reading) -> None:
        reading.codec.down = True
        reading.topic.messages += [Message(value_of("a"), offset=n) for n in range(MAX_HELD + 1)]
        for _ in range(MAX_HELD):
            reading.reader.tick()
        before = reading.topic.clock
        reading.reader.wait(0.2)
        assert reading.topic.clock == pytest.approx(before + 0.2)


class TestTopic:
    @pytest.mark.parametrize(
        ("code", "sentence"),
        [
            (KafkaError.UNKNOWN_TOPIC_OR_PART, f"the topic {TOPIC} does not exist"),
            (KafkaError.TOPIC_AUTHORIZATION_FAILED, f"this worker may not read the topic {TOPIC}"),
            (KafkaError.LEADER_NOT_AVAILABLE, f"the topic {TOPIC} cannot be read: "),
        ],
    )
    def test_a_topic_that_is_missing_or_forbidden_is_reported_until_it_is_there(
        self, reading: Reading, code: int, sentence: str
    ) -> None:
        reading.topic.error = code
        reading.reader.open()
        reading.reader.tick()
        assert reading.reader.problem is not None
        assert reading.reader.problem.startswith(sentence)
        assert sample("sdxl_worker_cancellations_up") == 0
        reading.topic.error = None
        reading.topic.clock += LIST_SOON_S
        reading.topic.messages.append(Message(value_of("a")))
        reading.read_all()
        assert reading.reader.problem is None
        assert sample("sdxl_worker_cancellations_up") == 1
        assert reading.cancelled == ["a"]

    def test_each_change_is_logged_once(self, reading: Reading, capsys: pytest.CaptureFixture[str]) -> None:
        reading.topic.error = KafkaError.UNKNOWN_TOPIC_OR_PART
        for _ in range(20):
            reading.reader.wait(1.0)
        reading.topic.error = None
        for _ in range(20):
            reading.reader.wait(1.0)
        seen = capsys.readouterr()
        told = (seen.out + seen.err).splitlines()
        assert len([line for line in told if "cancellations_not_read" in line]) == 1
        assert len([line for line in told if "cancellations_are_read" in line]) == 1

    def test_a_topic_that_is_not_there_is_not_asked_for_all_the_time(self, reading: Reading) -> None:
        reading.topic.error = KafkaError.UNKNOWN_TOPIC_OR_PART
        for _ in range(100):
            reading.reader.wait(LIST_SOON_S / 50)
        assert reading.topic.listed <= 3

    def test_a_broker_that_is_away_at_the_start_keeps_nobody_waiting(self, reading: Reading) -> None:
        reading.topic.unreachable = True
        reading.reader.open()
        assert reading.topic.clock == 100.0
        assert reading.reader.problem is not None
        reading.topic.unreachable = False
        reading.topic.clock += LIST_SOON_S
        reading.reader.tick()
        assert reading.topic.assigned == [{0: OFFSET_BEGINNING}]

    def test_the_start_waits_for_all_that_was_sent_before(self, reading: Reading) -> None:
        reading.topic.partitions = {0, 1}
        reading.topic.messages += [
            Message(value_of("a"), partition=0),
            Message(partition=0, error=END),
            Message(value_of("b"), partition=1),
            Message(partition=1, error=END),
            Message(value_of("after"), offset=1),
        ]
        reading.reader.open()
        assert reading.cancelled == ["a", "b"]

    def test_the_start_does_not_wait_for_ever(self, reading: Reading) -> None:
        reading.reader.open()
        assert reading.topic.clock == pytest.approx(100.0 + CATCH_UP_S, abs=0.2)

    def test_partitions_that_are_added_later_are_read_from_their_beginning(self, reading: Reading) -> None:
        reading.topic.messages += [Message(value_of("a"), offset=41), Message(error=END)]
        reading.reader.open()
        reading.topic.partitions = {0, 1}
        reading.topic.clock += LIST_AGAIN_S
        reading.topic.messages.append(Message(value_of("b"), partition=1))
        reading.read_all()
        assert reading.topic.assigned == [{0: OFFSET_BEGINNING}, {0: 42, 1: OFFSET_BEGINNING}]
        assert reading.cancelled == ["a", "b"]

    def test_a_topic_that_was_created_again_is_read_from_its_beginning(self, reading: Reading) -> None:
        reading.topic.messages += [Message(value_of("a"), offset=41), Message(error=END)]
        reading.reader.open()
        reading.topic.error = KafkaError.UNKNOWN_TOPIC_OR_PART
        reading.topic.clock += LIST_AGAIN_S
        reading.reader.tick()
        reading.topic.error = None
        reading.topic.clock += LIST_SOON_S
        reading.reader.tick()
        assert reading.topic.assigned == [{0: OFFSET_BEGINNING}, {0: OFFSET_BEGINNING}]

    def test_a_right_to_read_that_is_taken_away_is_reported_until_it_is_back(self, reading: Reading) -> None:
        reading.topic.messages += [Message(value_of("a"), offset=41), Message(error=END)]
        reading.reader.open()
        forbidden = Message(error=KafkaError.TOPIC_AUTHORIZATION_FAILED)
        reading.topic.on_assign = lambda: reading.topic.messages.append(forbidden)
        reading.topic.messages.append(forbidden)
        told: list[int] = []
        reading.reader._on_error = lambda error: told.append(error.code())
        for _ in range(10):
            reading.reader.wait(LIST_SOON_S / 2)
            assert reading.reader.problem is not None
        assert KafkaError.TOPIC_AUTHORIZATION_FAILED in told, "the cluster is not looked at"
        # librdkafka tells it once, so it has to be asked again; it goes on where it was.
        assert reading.topic.assigned[-1] == {0: 42}
        reading.topic.on_assign = lambda: reading.topic.messages.append(Message(error=END))
        reading.topic.clock += LIST_SOON_S
        reading.reader.wait(0.1)
        reading.reader.wait(0.1)
        assert reading.reader.problem is None
