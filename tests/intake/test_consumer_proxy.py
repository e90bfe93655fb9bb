"""Committed offsets inside a rebalance: asked for within a bound, by a client whose events somebody takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker.intake.consumer_proxy import COMMITTED_WITHIN_S, PROMPT_S, SETTLED_S, ConsumerProxy, OffsetsUnknown
from worker.intake.patience import Patience

PLACES = [TopicPartition("urgent", 0)]


class Clock:
    """Threads of one, on a clock of the test's own."""

    def __init__(self) -> None:
        self.time = 100.0

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def current(self) -> object:
        return self


class Client:
    """A consumer whose coordinator does not answer until `answers_at`."""

    def __init__(self, clock: Clock, answers_at: float) -> None:
        self._clock, self._answers_at = clock, answers_at
        self.polls = 0

    def committed(self, places: list[TopicPartition], timeout_s: float) -> list[TopicPartition]:
        if self._clock.time < self._answers_at:
            self._clock.time += timeout_s
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return places

    def poll(self, _timeout_s: float) -> None:
        self.polls += 1


def proxy(answers_at: float, interval_s: float = 300.0) -> tuple[Clock, Client, ConsumerProxy]:
    clock = Clock()
    client = Client(clock, answers_at)
    members = cast("Any", SimpleNamespace(metadata=lambda _now: {}))
    patience = Patience(["urgent"], clock.monotonic, interval_s)
    patience.polled("urgent")
    return clock, client, ConsumerProxy(members, cast("Any", client), cast("Any", clock), patience)


def test_a_coordinator_that_moves_is_waited_for() -> None:
    _, _, asking = proxy(answers_at=120.0)
    assert asking.committed_at_assignment(PLACES) == PLACES


def test_an_answer_that_comes_at_once_counts() -> None:
    clock, _, asking = proxy(answers_at=0.0)
    asking.committed_at_assignment(PLACES)
    assert clock.time == 100.0


@pytest.mark.parametrize("late_s", [0.0, 2 * PROMPT_S])
def test_after_trouble_only_what_the_coordinator_says_when_it_has_settled_counts(late_s: float) -> None:
    """One that has moved tells old offsets at first (KAFKA-15910)."""
    clock, client, asking = proxy(answers_at=0.0)
    told: list[float] = []

    def committed(places: list[TopicPartition], _timeout_s: float) -> list[TopicPartition]:
        told.append(clock.time)
        if len(told) == 1:
            clock.time += late_s
            if not late_s:
                raise KafkaException(KafkaError(KafkaError.NOT_COORDINATOR))
        age_s = clock.time - told[0] - late_s
        return [TopicPartition(p.topic, p.partition, 7 if age_s < SETTLED_S - 0.2 else 9) for p in places]

    client.committed = committed  # type: ignore[assignment, method-assign]
    [answer] = asking.committed_at_assignment(PLACES)
    assert answer.offset == 9
    assert clock.time < 100.0 + late_s + SETTLED_S + 1.0


def test_one_that_does_not_answer_is_told_in_time() -> None:
    clock, _, asking = proxy(answers_at=1e9)
    with pytest.raises(OffsetsUnknown, match="no committed offsets within 45 s") as unknown:
        asking.committed_at_assignment(PLACES)
    assert unknown.value.topics == {place.topic for place in PLACES}
    assert clock.time <= 100.0 + COMMITTED_WITHIN_S + 1e-6


def test_one_that_does_not_answer_is_told_sooner_where_other_waits_have_left_less_time() -> None:
    clock, _, asking = proxy(answers_at=1e9, interval_s=30.0)
    with pytest.raises(OffsetsUnknown, match="no committed offsets within 27 s"):
        asking.committed_at_assignment(PLACES)
    assert clock.time <= 100.0 + 30.0


def test_an_answer_that_is_there_counts_even_where_no_time_is_left() -> None:
    clock, _, asking = proxy(answers_at=0.0, interval_s=30.0)
    clock.time += 29.0
    assert asking.committed_at_assignment(PLACES) == PLACES


def test_the_events_of_the_reader_are_taken() -> None:
    clock, client, asking = proxy(answers_at=0.0)
    for _ in range(100):
        asking.serve()
        clock.sleep(0.1)
    assert 9 <= client.polls <= 11
