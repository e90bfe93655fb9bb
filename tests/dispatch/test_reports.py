"""Reports on their way: what a worker says when, and which of them a dispatcher takes for news."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import OFFSET_END, KafkaError

from tests.events.strategies import NOW, sample
from worker.dispatch.report_reader import LIST_SOON_S, STOOD_STILL_S, ReportReader
from worker.dispatch.reporter import LEAST_PAUSE_S, MOST_PAUSE_S, Reporter
from worker.events.headers import report_headers
from worker.events.single_object import SingleObjectCodec
from worker.events.types import WorkerReport
from worker.intake.ledger import Ledger
from worker.threads import Threads
from worker.topics import Topics
from worker.work_in_hand import WorkInHand

CODEC = SingleObjectCodec()
TOPIC = Topics("", "work").workers


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> float:
        return NOW.timestamp()

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class Producer:
    def __init__(self) -> None:
        self.reports: list[WorkerReport] = []

    def produce(self, topic: str, *, key: bytes, value: bytes, headers: Any, on_delivery: Any) -> None:
        self.on_delivery = on_delivery
        self.reports.append(CODEC.decode(value, topic=topic, headers=headers, expected=WorkerReport))
        assert key == self.reports[-1].worker_id.encode()

    def poll(self, _timeout_s: float) -> None: ...

    def flush(self, _timeout_s: float) -> None: ...


@pytest.fixture
def clock() -> Clock:
    return Clock()


def reporter(producer: Producer, ledger: Ledger, clock: Clock, accepts: list[bool]) -> Reporter:
    return Reporter(
        cast("Any", producer), TOPIC, CODEC, ledger, WorkInHand(), cast("Threads", clock),
        worker_id="a", rows=2, models=("m",), accepts=lambda: accepts[-1],
    )  # fmt: skip


def test_a_report_on_every_change_but_not_too_often_and_one_a_second(clock: Clock) -> None:
    producer, ledger, accepts = Producer(), Ledger(), [True]
    reports = reporter(producer, ledger, clock, accepts)
    assert reports.tick()
    assert not reports.tick()
    clock.time += LEAST_PAUSE_S * 1.01
    assert not reports.tick(), "nothing has changed"
    ledger.assign("t", 3, 7, None)
    assert reports.tick()
    accepts.append(False)
    assert not reports.tick(), "too soon"
    clock.time += LEAST_PAUSE_S * 1.01
    assert reports.tick()
    clock.time += MOST_PAUSE_S
    assert reports.tick(), "a sign of life"
    assert [report.sequence for report in producer.reports] == [1, 2, 3, 4]
    assert [(p.topic, p.partition, p.position) for p in producer.reports[1].partitions] == [("t", 3, 7)]
    assert [report.accepts for report in producer.reports] == [True, True, False, False]
    reports.close()
    assert producer.reports[-1].accepts is False


class Topic:
    """A consumer of a topic with one partition."""

    def __init__(self) -> None:
        self.coming: list[Any] = []
        self.assigned = self.listed = 0
        self.stands_still: Callable[[], None] = lambda: None

    def list_topics(self, topic: str, timeout: float) -> Any:
        del timeout
        self.listed += 1
        return SimpleNamespace(topics={topic: SimpleNamespace(partitions={0: None}, error=None)})

    def assign(self, places: list[Any]) -> None:
        self.assigned += len(places)
        assert all(place.offset == OFFSET_END for place in places)
        self.coming.clear()

    def poll(self, _timeout_s: float) -> Any:
        self.stands_still()
        self.stands_still = lambda: None
        return self.coming.pop(0) if self.coming else None

    def report(self, **fields: Any) -> None:
        report = sample(WorkerReport, **fields)
        value, framing = CODEC.encode(report, topic=TOPIC)
        self.record(value, [*report_headers(report, source="/x"), *framing])

    def record(self, value: bytes | None, headers: Any = None) -> None:
        self.coming.append(
            SimpleNamespace(
                error=lambda: None, topic=lambda: TOPIC, partition=lambda: 0, offset=lambda: 1, key=lambda: b"a",
                value=lambda: value, headers=lambda: headers, timestamp=lambda: (1, 0), leader_epoch=lambda: None,
            )
        )  # fmt: skip

    def event(self, code: int) -> None:
        self.coming.append(SimpleNamespace(error=lambda: KafkaError(code), partition=lambda: 0))


def test_only_what_is_said_from_now_on_is_news(clock: Clock) -> None:
    topic = Topic()
    heard: list[WorkerReport] = []
    reader = ReportReader(cast("Any", topic), TOPIC, CODEC, heard.append, cast("Threads", clock))
    topic.report(sequence=1)
    reader.tick()
    assert not heard, "it was written before the partition was assigned"
    topic.report(sequence=2)
    topic.record(b"no Avro")
    topic.record(None)
    topic.event(KafkaError._PARTITION_EOF)
    topic.report(sequence=3)
    while topic.coming:
        reader.tick()
    assert [report.sequence for report in heard] == [2, 3], "somebody always reports, so no end is ever seen"
    # It stood still: what comes first was said in the meantime.
    clock.time += STOOD_STILL_S + 0.1
    topic.report(sequence=4)
    reader.tick()
    topic.report(sequence=5)
    while topic.coming:
        reader.tick()
    assert [report.sequence for report in heard] == [2, 3, 5]
    assert topic.assigned == 2


def test_a_reader_that_stood_still_while_it_polled_trusts_nothing_that_it_got(clock: Clock) -> None:
    topic = Topic()
    heard: list[WorkerReport] = []
    reader = ReportReader(cast("Any", topic), TOPIC, CODEC, heard.append, cast("Threads", clock))
    reader.tick()
    topic.report(sequence=1)
    topic.report(sequence=2)
    topic.stands_still = lambda: setattr(clock, "time", clock.time + 60.0)
    reader.wait(0.2)
    reader.tick()
    assert not heard


def test_trouble_with_the_topic_is_looked_at_soon(clock: Clock) -> None:
    topic = Topic()
    reader = ReportReader(cast("Any", topic), TOPIC, CODEC, lambda _: None, cast("Threads", clock))
    reader.tick()
    topic.event(KafkaError.UNKNOWN_TOPIC_OR_PART)
    reader.tick()
    clock.time += LIST_SOON_S
    before = topic.listed
    reader.tick()
    assert topic.listed == before + 1


def test_errors_of_the_topic_are_told_to_who_looks_at_the_cluster(clock: Clock) -> None:
    topic, told = Topic(), list[KafkaError]()
    reader = ReportReader(cast("Any", topic), TOPIC, CODEC, lambda _: None, cast("Threads", clock), told.append)
    reader.tick()
    topic.event(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    reader.tick()
    assert [error.code() for error in told] == [KafkaError.TOPIC_AUTHORIZATION_FAILED]


def test_reports_that_are_not_written_are_told_to_who_looks_at_the_cluster(clock: Clock) -> None:
    producer, told = Producer(), list[KafkaError]()
    reports = Reporter(
        cast("Any", producer), TOPIC, CODEC, Ledger(), WorkInHand(), cast("Threads", clock),
        worker_id="a", rows=2, models=("m",), accepts=lambda: True, on_error=told.append,
    )  # fmt: skip
    reports.tick()
    producer.on_delivery(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), None)
    producer.on_delivery(None, None)
    assert [error.code() for error in told] == [KafkaError.TOPIC_AUTHORIZATION_FAILED]
