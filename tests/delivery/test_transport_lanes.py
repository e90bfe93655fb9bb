"""One transaction for the offsets of three members: each in its own name, and all or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker.delivery.exactly_once import ExactlyOnce
from worker.delivery.producer import GRACE_S
from worker.delivery.transport import OFFSETS_MAX_S, Offset, TryAgain
from worker.job import Lane

TOPICS = tuple(lane.label for lane in Lane)
MEMBERSHIP = {topic: f"member of {topic}" for topic in TOPICS}
OFFSETS = [Offset(topic, partition, 7, "") for partition in (0, 1) for topic in TOPICS]


class Producer:
    """Takes what it gets, but for the offsets of `refused`; each call with offsets takes `seconds`."""

    def __init__(self, refused: str = "", seconds: Callable[[float], float] = lambda _timeout: 0.0) -> None:
        self.refused, self.seconds, self.now = refused, seconds, 0.0
        self.sent: list[tuple[str, list[str]]] = []
        self.ended: list[str] = []

    def init_transactions(self, _timeout_s: float) -> None: ...
    def begin_transaction(self) -> None: ...
    def purge(self) -> None: ...

    def poll(self, _timeout_s: float) -> int:
        return 0

    def flush(self, _timeout_s: float) -> int:
        return 0

    def send_offsets_to_transaction(self, places: list[TopicPartition], member: str, timeout_s: float) -> None:
        self.now += self.seconds(timeout_s)
        topics = {place.topic for place in places}
        if self.refused in topics:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID, "", False, False, True))
        self.sent.append((member, [f"{place.topic}/{place.partition}" for place in places]))

    def commit_transaction(self, _timeout_s: float) -> None:
        self.ended.append("commit")

    def abort_transaction(self, _timeout_s: float) -> None:
        self.ended.append("abort")


def transport(producer: Producer) -> ExactlyOnce:
    found = ExactlyOnce(lambda: cast("Any", producer), cast("Any", None), clock=lambda: producer.now)
    found.prepare()
    return found


def test_the_offsets_of_each_topic_are_sent_in_the_name_of_its_member() -> None:
    producer = Producer()
    transport(producer).send([], OFFSETS, MEMBERSHIP)
    assert producer.sent == [(f"member of {topic}", [f"{topic}/0", f"{topic}/1"]) for topic in TOPICS]
    assert producer.ended == ["commit"]


def test_a_lane_without_offsets_is_not_asked() -> None:
    producer = Producer(refused="urgent")
    transport(producer).send([], [offset for offset in OFFSETS if offset.topic != "urgent"], MEMBERSHIP)
    assert producer.ended == ["commit"]


@pytest.mark.parametrize("refused", TOPICS)
def test_a_member_that_is_refused_is_not_covered_by_those_that_are_not(refused: str) -> None:
    producer = Producer(refused)
    with pytest.raises(TryAgain, match="transaction"):
        transport(producer).send([], OFFSETS, MEMBERSHIP)
    assert producer.ended == ["abort"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99, 1.0])
def test_the_calls_for_all_members_share_one_time(share: float) -> None:
    """The longest that they take is part of `SEND_MAX_S`, and so of how long a rebalance waits for a flush."""
    producer = Producer(seconds=lambda timeout: share * (timeout + GRACE_S))
    transport(producer).send([], OFFSETS, MEMBERSHIP)
    assert producer.now <= OFFSETS_MAX_S
