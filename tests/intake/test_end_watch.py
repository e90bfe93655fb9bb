"""What is asked about the ends of partitions, and what comes of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition

from worker.intake.end_watch import (
    COMPARE_IDS_S,
    LEARN_ID_AFTER_S,
    VAIN_ANSWERS_MAX,
    EndWatch,
    Event,
    Found,
    Learnt,
    Reached,
)
from worker.intake.log_bounds import EARLIEST, INTERVAL_S, LogBounds
from worker.intake.resets import Cause, GoOn, Lost
from worker.threads import SystemThreads

KEY = ("t", 0)
OTHER = ("t", 1)


class Admin:
    """Answers at once by what it is told of the logs; `None` is an error."""

    def __init__(self) -> None:
        self.firsts = {KEY: 0, OTHER: 0}
        self.ends: dict[tuple[str, int], int | None] = {KEY: 10, OTHER: 10}
        self.epoch = 3
        self.topic_id: str | None = "A"
        self.asked: list[str] = []
        self.silent = False
        self.pending: list[tuple[Future[Any], SimpleNamespace | None]] = []

    def poll(self, _timeout_s: float) -> int:
        return 0

    def list_offsets(self, places: Mapping[TopicPartition, Any], **_: Any) -> dict[TopicPartition, Any]:
        self.asked += [f"{place.topic}/{place.partition}" for place in places]
        return {place: self._answer(self._bound(place, spec)) for place, spec in places.items()}

    def describe_topics(self, topics: TopicCollection, **_: Any) -> dict[str, Any]:
        names: list[str] = topics.topic_names
        self.asked += names
        found = None if self.topic_id is None else SimpleNamespace(topic_id=self.topic_id)
        return {name: self._answer(found) for name in names}

    def _bound(self, place: TopicPartition, spec: Any) -> SimpleNamespace | None:
        key = place.topic, place.partition
        offset = self.firsts[key] if spec is EARLIEST else self.ends[key]
        return None if offset is None else SimpleNamespace(offset=offset, leader_epoch=self.epoch)

    def _answer(self, value: SimpleNamespace | None) -> Future[Any]:
        future: Future[Any] = Future()
        if self.silent:
            self.pending.append((future, value))
            return future
        if value is None:
            future.set_exception(KafkaException(KafkaError(KafkaError.FENCED_LEADER_EPOCH)))
        else:
            future.set_result(value)
        return future


class Watched:
    """An `EndWatch` with its clock."""

    def __init__(self) -> None:
        self.admin, self.now = Admin(), 1000.0
        self.watch = EndWatch(LogBounds(self.admin, SystemThreads()))  # type: ignore[arg-type]

    def look(self, *paused: tuple[str, int], rounds: int = 3) -> list[Event]:
        events: list[Event] = []
        for _ in range(rounds):
            events += self.watch.look(set(paused), self.now)
            self.now += INTERVAL_S
        return events

    def assigned_with(self, topic_id: str | None) -> None:
        """The id was committed with the offset, and is that of the topic."""
        self.watch.on_assigned({KEY: topic_id}, self.now)
        assert self.look() == []


def test_an_end_that_was_reached_comes_back_with_its_epoch() -> None:
    watched = Watched()
    watched.watch.on_end(KEY, 10)
    assert watched.look() == [Reached(KEY, 10, 3)]
    assert watched.look() == []
    assert watched.admin.asked == ["t/0", "t/0"]


@pytest.mark.parametrize("end", [pytest.param(9, id="a shorter log"), pytest.param(None, id="no answer")])
def test_an_end_without_an_epoch_is_asked_about_again(end: int | None) -> None:
    watched = Watched()
    watched.admin.ends[KEY] = end
    watched.watch.on_end(KEY, 10)
    assert watched.look() == []
    watched.admin.ends[KEY] = 10
    assert watched.look() == [Reached(KEY, 10, 3)]


@pytest.mark.parametrize("end", [pytest.param(9, id="a shorter log"), pytest.param(None, id="no answer")])
def test_an_end_that_nobody_can_be_asked_about_was_reached_all_the_same(end: int | None) -> None:
    watched = Watched()
    watched.admin.ends[KEY] = end
    watched.watch.on_end(KEY, 10)
    assert watched.look(rounds=3 * VAIN_ANSWERS_MAX) == [Reached(KEY, 10, None)]


def test_an_end_is_not_reached_any_more_once_the_log_has_lost_it() -> None:
    watched = Watched()
    watched.admin.ends[KEY], watched.admin.epoch = 4, 4
    watched.watch.on_end(KEY, 10)
    watched.watch.on_lost(KEY, lost := Lost(10, 3, 4))
    assert watched.look(rounds=3 * VAIN_ANSWERS_MAX) == [Found(KEY, lost, GoOn(4, Cause.LOST_END), "A")]


def test_an_answer_to_a_question_of_before_the_loss_does_not_count() -> None:
    """It tells of the log as it was: with the old epoch, the topic would be taken for one that was created again."""
    watched = Watched()
    watched.admin.silent = True
    watched.watch.on_end(KEY, 10)
    watched.look()
    asked, watched.admin.silent = watched.admin.pending, False
    watched.watch.on_lost(KEY, lost := Lost(10, 3, 4))
    for future, value in asked:
        future.set_result(value)
    watched.admin.ends[KEY], watched.admin.epoch = 6, 4
    assert watched.look() == [Found(KEY, lost, GoOn(4, Cause.LOST_END), "A")]


def test_where_to_go_on_is_asked_until_it_is_answered() -> None:
    watched = Watched()
    watched.admin.ends[KEY] = None
    lost = Lost(20)
    watched.watch.on_lost(KEY, lost)
    assert watched.look() == []
    watched.admin.ends[KEY] = 8
    assert watched.look() == [Found(KEY, lost, GoOn(8, Cause.LOST_END), "A")]
    assert watched.look() == []


def test_partitions_that_have_gone_are_not_asked_about() -> None:
    watched = Watched()
    watched.watch.on_lost(KEY, Lost(20))
    watched.watch.on_end(OTHER, 10)
    watched.look(rounds=1)
    watched.watch.on_gone([KEY, OTHER])
    assert watched.look() == []


def test_one_question_is_under_way_at_a_time() -> None:
    watched = Watched()
    watched.admin.silent = True
    watched.watch.on_end(KEY, 10)
    watched.look(rounds=20)
    assert watched.admin.asked == ["t/0", "t/0"]


def test_the_ends_of_paused_partitions_are_known_as_long_as_they_are() -> None:
    watched = Watched()
    watched.look(KEY)
    assert (watched.watch.end(KEY), watched.watch.end(OTHER)) == (10, None)
    watched.admin.ends[KEY] = 70
    watched.look(KEY)
    assert watched.watch.end(KEY) == 70
    watched.look()
    assert watched.watch.end(KEY) is None


def test_a_topic_with_another_id_is_read_from_its_beginning() -> None:
    watched = Watched()
    watched.assigned_with("A")
    watched.admin.topic_id = "B"
    watched.watch.on_lost(KEY, Lost(20, 3, 5))
    [found] = watched.look()
    assert isinstance(found, Found)
    assert found.go_on == GoOn(0, Cause.RECREATED)


def test_a_topic_that_has_kept_its_id_has_lost_its_end() -> None:
    watched = Watched()
    watched.assigned_with("A")
    watched.watch.on_lost(KEY, Lost(20, 2))
    [found] = watched.look()
    assert isinstance(found, Found)
    assert found.go_on == GoOn(10, Cause.LOST_END)


def test_another_id_is_noticed_without_an_error_and_once() -> None:
    """The new topic has as many records as the old one had, so every offset is there."""
    watched = Watched()
    watched.assigned_with("A")
    watched.admin.topic_id = "B"
    watched.now += COMPARE_IDS_S
    [found] = watched.look(rounds=5)
    assert isinstance(found, Found)
    assert found.go_on == GoOn(0, Cause.RECREATED)
    # A broker that lags behind still names the old one.
    for topic_id in ("A", "B", "A"):
        watched.admin.topic_id = topic_id
        watched.now += COMPARE_IDS_S
        assert watched.look(rounds=5) == []


def test_an_id_is_not_learnt_at_once() -> None:
    watched = Watched()
    """A broker that lags behind would name the topic that was deleted."""
    watched.watch.on_assigned({KEY: None}, watched.now)
    assert watched.look(rounds=2) == []
    assert watched.admin.asked == []
    watched.now += LEARN_ID_AFTER_S
    assert watched.look() == [Learnt(KEY, "A")]
    watched.now += COMPARE_IDS_S
    assert watched.look() == []


def test_an_id_is_learnt_though_partitions_of_another_topic_come_whose_id_is_known() -> None:
    """As where the lanes' members are assigned one after another."""
    watched = Watched()
    watched.watch.on_assigned({KEY: None}, watched.now)
    watched.watch.on_assigned({("known", 0): "A"}, watched.now)
    watched.now += LEARN_ID_AFTER_S
    assert watched.look() == [Learnt(KEY, "A")]


def test_an_answer_that_fails_once_is_asked_for_again_before_anything_is_read() -> None:
    watched = Watched()
    watched.admin.topic_id = None
    asked = watched.admin.describe_topics

    def answered_the_second_time(topics: TopicCollection, **_: Any) -> dict[str, Any]:
        answers = asked(topics)
        watched.admin.topic_id = "B"
        return answers

    watched.admin.describe_topics = answered_the_second_time  # type: ignore[method-assign]
    assert watched.watch.recreated({KEY: "A"}) == {KEY: "B"}


def test_offsets_of_another_topic_are_known_before_anything_is_read() -> None:
    watched = Watched()
    assert watched.watch.recreated({KEY: "A", OTHER: None}) == {}
    watched.admin.topic_id = "B"
    assert watched.watch.recreated({KEY: "A", OTHER: None}) == {KEY: "B"}
    watched.admin.topic_id = None
    assert watched.watch.recreated({KEY: "A"}) == {}


def test_where_no_topic_was_committed_nobody_is_asked() -> None:
    watched = Watched()
    assert watched.watch.recreated({KEY: None}) == {}
    assert watched.admin.asked == []
