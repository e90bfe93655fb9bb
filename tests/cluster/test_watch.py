"""When the cluster is looked at again, and what of readiness is Kafka's part."""

from __future__ import annotations

import json

import pytest
from confluent_kafka import KafkaError
from structlog.testing import capture_logs

from worker.cluster.check import Problem
from worker.cluster.contact import Contact
from worker.cluster.facts import ClusterUnavailable
from worker.cluster.watch import (
    CHECK_INTERVAL_S,
    DOWN_AFTER_S,
    NO_ASSIGNMENT_AFTER_S,
    RECHECK_AFTER_S,
    SILENT_AFTER_S,
    TELL_AGAIN_S,
    ClusterWatch,
)
from worker.telemetry import metrics

NO_TOPIC = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)


class Stage:
    """A watch with its clock, and a cluster that answers what a test wants; its clients hear from it all the time."""

    servers = "kafka:9092"

    def __init__(self) -> None:
        self.now = 1_000.0
        self.answer: list[str] | ClusterUnavailable = []
        self.checks = 0
        self.assigned = True
        self.failing = False
        self.contact = Contact(lambda: self.now)
        self.watch = ClusterWatch(
            self, lambda: self.now, is_assigned=lambda: self.assigned, is_failing=lambda: self.failing
        )

    def check(self, _timeout_s: float) -> list[Problem]:
        self.checks += 1
        if isinstance(self.answer, ClusterUnavailable):
            raise self.answer
        return [Problem(text) for text in self.answer]

    def pass_time(self, seconds: float, *, silent: bool = False) -> None:
        """Tick once a second."""
        for _ in range(round(seconds)):
            self.now += 1
            if not silent:
                self.contact.answered(self.now)
            self.watch.tick()


@pytest.fixture
def stage() -> Stage:
    """A watch that has looked once and found nothing."""
    stage = Stage()
    assert stage.watch.tick()
    stage.checks = 0
    return stage


def test_it_looks_at_the_start_and_then_rarely(stage: Stage) -> None:
    stage.pass_time(10 * RECHECK_AFTER_S)
    assert stage.checks == 10
    assert stage.watch.not_ready() == []


class TestTrouble:
    @pytest.mark.parametrize(
        "code",
        [
            KafkaError.UNKNOWN_TOPIC_OR_PART,
            KafkaError._UNKNOWN_TOPIC,
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.GROUP_AUTHORIZATION_FAILED,
        ],
    )
    def test_errors_about_topics_and_rights_make_it_look(self, stage: Stage, code: int) -> None:
        stage.pass_time(CHECK_INTERVAL_S)
        stage.watch.on_error(KafkaError(code))
        stage.pass_time(1)
        assert stage.checks == 1

    def test_errors_that_pass_do_not(self, stage: Stage) -> None:
        stage.watch.on_error(KafkaError(KafkaError._TRANSPORT))
        stage.pass_time(60)
        assert stage.checks == 0

    def test_a_stream_of_errors_makes_it_look_once_in_an_interval(self, stage: Stage) -> None:
        for _ in range(100):
            stage.watch.on_error(NO_TOPIC)
            stage.pass_time(1)
        assert stage.checks == 100 // CHECK_INTERVAL_S

    def test_a_rebalance_makes_it_look(self, stage: Stage) -> None:
        stage.watch.on_rebalance()
        stage.pass_time(CHECK_INTERVAL_S)
        assert stage.checks == 1

    def test_publishing_that_fails_makes_it_look(self, stage: Stage) -> None:
        stage.failing = True
        stage.pass_time(CHECK_INTERVAL_S)
        assert stage.checks == 1

    def test_no_assignment_for_a_while_makes_it_look(self, stage: Stage) -> None:
        stage.assigned = False
        stage.pass_time(NO_ASSIGNMENT_AFTER_S)
        assert stage.checks == 0
        stage.pass_time(1)
        assert stage.checks == 1

    def test_an_assignment_in_between_starts_the_time_anew(self, stage: Stage) -> None:
        for _ in range(3):
            stage.assigned = False
            stage.pass_time(NO_ASSIGNMENT_AFTER_S - 1)
            stage.assigned = True
            stage.pass_time(1)
        assert stage.checks == 0


class TestProblems:
    def test_they_show_until_they_are_gone(self, stage: Stage) -> None:
        stage.answer = ["topic a does not exist"]
        stage.watch.on_error(NO_TOPIC)
        stage.pass_time(CHECK_INTERVAL_S)
        assert stage.watch.not_ready() == ["topic a does not exist"]
        assert stage.watch.facts()["cluster_problems"] == ["topic a does not exist"]
        assert metrics.CLUSTER_PROBLEMS._value.get() == 1
        stage.answer = []
        stage.pass_time(CHECK_INTERVAL_S)
        assert stage.watch.not_ready() == []
        assert metrics.CLUSTER_PROBLEMS._value.get() == 0

    def test_each_change_is_one_line_in_the_log(self, stage: Stage) -> None:
        with capture_logs() as lines:
            stage.watch.on_error(NO_TOPIC)
            for answer in (["a"], ["a", "b"], []):
                stage.answer = list(answer)
                stage.pass_time(5 * CHECK_INTERVAL_S)
        assert [(line["event"], line["problems"]) for line in lines] == [
            ("cluster_problems", ["a"]),
            ("cluster_problems", ["a", "b"]),
            ("cluster_problems", []),
        ]

    def test_they_stay_while_nobody_can_be_asked(self, stage: Stage) -> None:
        stage.answer = ["a"]
        stage.watch.on_error(NO_TOPIC)
        stage.pass_time(CHECK_INTERVAL_S)
        stage.answer = ClusterUnavailable("refused")
        stage.pass_time(CHECK_INTERVAL_S)
        assert stage.watch.not_ready() == ["a"]


class TestOutage:
    def test_readiness_falls_and_comes_back(self, stage: Stage) -> None:
        stage.answer = ClusterUnavailable("connection refused")
        stage.pass_time(DOWN_AFTER_S, silent=True)
        assert stage.watch.not_ready() == []
        assert metrics.KAFKA_UP._value.get() == 1
        stage.pass_time(1, silent=True)
        assert stage.watch.not_ready() == ["Kafka has not answered for 31 s"]
        assert metrics.KAFKA_UP._value.get() == 0
        assert metrics.KAFKA_ANSWER_AGE._value.get() == 31
        stage.pass_time(1)
        assert stage.watch.not_ready() == []
        assert metrics.KAFKA_UP._value.get() == 1

    def test_a_busy_poll_thread_is_no_outage(self, stage: Stage) -> None:
        stage.pass_time(600, silent=True)
        assert stage.watch.not_ready() == [], "the cluster has answered when it was asked"
        assert stage.checks == pytest.approx(600 / (SILENT_AFTER_S + 1), abs=2)

    def test_it_is_told_now_and_then_with_the_reason(self, stage: Stage) -> None:
        stage.answer = ClusterUnavailable("connection refused")
        with capture_logs() as lines:
            stage.pass_time(50, silent=True)
            assert [(line["servers"], line["reason"]) for line in lines] == [("kafka:9092", "connection refused")]
            stage.pass_time(1_000, silent=True)
            assert len(lines) == pytest.approx(1_050 / TELL_AGAIN_S, abs=3)
            lines.clear()
            stage.answer = []
            stage.pass_time(CHECK_INTERVAL_S)
        assert [line["event"] for line in lines] == ["kafka_answers_again"]

    def test_a_kafka_that_was_never_there_is_not_ready(self) -> None:
        stage = Stage()
        stage.answer = ClusterUnavailable("connection refused")
        stage.watch.tick()
        assert stage.watch.not_ready() == ["Kafka has not answered yet"]
        stage.pass_time(DOWN_AFTER_S + 1, silent=True)
        assert metrics.KAFKA_UP._value.get() == 0
        assert stage.watch.facts()["kafka_answered_s_ago"] is None


def test_a_worker_without_its_first_assignment_is_not_ready(stage: Stage) -> None:
    stage.assigned = False
    assert stage.watch.not_ready() == ["the consumer group has not assigned partitions to this worker yet"]


class TestContact:
    def statistics(self, **idle_us: int) -> str:
        return json.dumps({"brokers": {name: {"rxidle": idle} for name, idle in idle_us.items()}})

    def test_the_latest_answer_of_any_broker_counts(self) -> None:
        contact = Contact(lambda: 100.0)
        contact.on_statistics(self.statistics(one=7_000_000, two=2_500_000))
        assert contact.at == 97.5

    def test_a_connection_that_has_heard_nothing_is_no_answer(self) -> None:
        contact = Contact(lambda: 100.0)
        contact.on_statistics(self.statistics(bootstrap=-1))
        contact.on_statistics("{}")
        assert contact.at is None

    def test_time_does_not_go_back(self) -> None:
        contact = Contact(lambda: 100.0)
        contact.answered(99.0)
        contact.on_statistics(self.statistics(one=50_000_000))
        assert contact.at == 99.0
