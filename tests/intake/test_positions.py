"""Where partitions are opened: epochs are compared before anything is fetched."""

from __future__ import annotations

from typing import Any, cast

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from worker.intake.positions import SEEK_WITHIN_S, Positions

KEY = ("t", 0)


class Members:
    """Notes what it is asked for; refuses the first seeks."""

    def __init__(self, refusals: int = 0) -> None:
        self.calls: list[tuple[str, list[tuple[int, int, int | None]]]] = []
        self.refusals, self.error = refusals, KafkaError._STATE

    def seek(self, place: TopicPartition) -> None:
        if self.refusals:
            self.refusals -= 1
            raise KafkaException(KafkaError(self.error))
        self.calls.append(("seek", [(place.partition, place.offset, place.leader_epoch)]))

    def __getattr__(self, name: str) -> Any:
        def call(places: list[TopicPartition]) -> None:
            self.calls.append((name, [(place.partition, place.offset, place.leader_epoch) for place in places]))

        return call


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def positions(members: Members) -> Positions:
    return Positions(cast("Any", members), cast("Any", Clock()))


def test_an_offset_with_an_epoch_is_sought_while_it_is_paused() -> None:
    members = Members()
    known, unknown = TopicPartition("t", 0, 7, "", 3), TopicPartition("t", 1, 8)
    positions(members).assign([known, unknown, TopicPartition("t", 2, -1001)])
    place = (0, 7, 3)
    assert members.calls == [
        ("pause", [place]),
        ("incremental_assign", [place, (1, 8, None), (2, OFFSET_BEGINNING, None)]),
        ("seek", [place]),
        ("resume", [place]),
    ]


def test_a_seek_that_is_refused_is_tried_again_from_the_start() -> None:
    members = Members(refusals=2)
    positions(members).assign([TopicPartition("t", 0, 7, "", 3)])
    again = ["incremental_unassign", "pause", "incremental_assign"]
    assert [name for name, _ in members.calls] == ["pause", "incremental_assign", *again, *again, "seek", "resume"]


def test_a_partition_that_librdkafka_knows_nothing_of_is_left_to_it() -> None:
    """It has no leader to fetch from, and compares epochs when it learns of one."""
    members = Members(refusals=1)
    members.error = KafkaError._UNKNOWN_PARTITION
    positions(members).assign([TopicPartition("t", 0, 7, "", 3)])
    assert [name for name, _ in members.calls] == ["pause", "incremental_assign", "resume"]


def test_a_partition_that_does_not_start_stays_paused() -> None:
    """As in a member that leaves, which librdkafka gives no partitions any more."""
    members = Members(refusals=1000)
    positions(members).assign([TopicPartition("t", 0, 7, "", 3)])
    assert 1000 - members.refusals < SEEK_WITHIN_S / 0.01
    assert members.calls[-1] == ("resume", [])


def test_an_offset_that_is_reported_missing_is_compared_once_and_then_believed() -> None:
    members = Members()
    opened = positions(members)
    opened.assign([TopicPartition("t", 0, 7, "", 3)])
    assert opened.compares_again(KEY, 7, 3)
    assert not opened.compares_again(KEY, 7, 3)
    assert opened.compares_again(KEY, 9, 3), "it has moved on"
    opened.assign([TopicPartition("t", 0, 9, "", 3)])
    assert opened.compares_again(KEY, 9, 3), "it has come anew"
    assert not opened.compares_again(KEY, 9, None)
    assert not opened.compares_again(KEY, None, 3)
