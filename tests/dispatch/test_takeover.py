"""Where a dispatcher group begins: at its own offsets, else at those of workers that have stopped."""

from __future__ import annotations

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition

from worker.dispatch.takeover import Takeover

TOPIC = "generation.requests.normal"


class Offsets:
    """A group's committed offsets, with notes of what is finished above them."""

    def __init__(self, offsets: dict[int, int], error: KafkaException | None = None) -> None:
        self.offsets, self.error = offsets, error
        self.polled = 0

    def committed(self, partitions: list[TopicPartition], _timeout_s: float) -> list[TopicPartition]:
        if self.error is not None:
            raise self.error
        return [
            TopicPartition(p.topic, p.partition, self.offsets[p.partition], f"notes {p.partition}")
            if p.partition in self.offsets
            else TopicPartition(p.topic, p.partition, OFFSET_INVALID)
            for p in partitions
        ]

    def poll(self, _timeout_s: float) -> None:
        self.polled += 1


def places(*numbers: int) -> list[TopicPartition]:
    return [TopicPartition(TOPIC, number) for number in numbers]


def found(answers: list[TopicPartition]) -> dict[int, tuple[int, str | None]]:
    return {answer.partition: (answer.offset, answer.metadata) for answer in answers}


def test_its_own_offsets_come_first_and_those_of_the_workers_with_their_notes_where_it_has_none() -> None:
    reader = Takeover(Offsets({0: 70}), Offsets({0: 5, 1: 6}), lambda _topics, _timeout_s: set())
    answers = found(reader.committed(places(0, 1, 2), 1.0))
    assert answers == {0: (70, "notes 0"), 1: (6, "notes 1"), 2: (OFFSET_INVALID, None)}


def test_nothing_is_taken_over_while_a_worker_still_reads_the_topic() -> None:
    reader = Takeover(Offsets({}), Offsets({0: 5}), lambda topics, _timeout_s: topics)
    with pytest.raises(KafkaException, match=f"workers still read {TOPIC}: stop them, or start them with INPUT=work"):
        reader.committed(places(0), 1.0)


def test_the_workers_are_not_asked_about_once_there_are_offsets() -> None:
    def never(_topics: object, _timeout_s: float) -> set[str]:
        raise AssertionError("asked")

    assert found(Takeover(Offsets({0: 1}), Offsets({}), never).committed(places(0), 1.0)) == {0: (1, "notes 0")}


def test_an_answer_that_is_missing_is_an_error_and_not_the_beginning() -> None:
    error = KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    reader = Takeover(Offsets({}), Offsets({}, error), lambda _topics, _timeout_s: set())
    with pytest.raises(KafkaException):
        reader.committed(places(0), 1.0)


def test_the_events_of_both_clients_are_taken() -> None:
    own, workers = Offsets({}), Offsets({})
    Takeover(own, workers, lambda _topics, _timeout_s: set()).poll(0.0)
    assert (own.polled, workers.polled) == (1, 1)
