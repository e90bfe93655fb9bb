"""The reader of whole topics: partitions that are added while it follows them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_INVALID, KafkaError, KafkaException, TopicPartition

from worker.client import reader as module
from worker.client.connection import Connection
from worker.client.offsets import offsets_at
from worker.client.reader import Reader


class Cluster:
    """Topics and the numbers of their partitions, and a consumer that reads nothing."""

    def __init__(self) -> None:
        self.partitions = {"a": 1, "b": 2, "other": 1}
        self.down = False
        self.listed = 0
        self.assigned: dict[tuple[str, int], int] = {}

    def list_topics(self, timeout: float) -> Any:
        assert timeout > 0
        self.listed += 1
        if self.down:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        topics = {name: SimpleNamespace(partitions=dict.fromkeys(range(n))) for name, n in self.partitions.items()}
        return SimpleNamespace(topics=topics)

    def assign(self, places: list[TopicPartition]) -> None:
        self.assigned = {}
        self.incremental_assign(places)

    def incremental_assign(self, places: list[TopicPartition]) -> None:
        for place in places:
            assert (place.topic, place.partition) not in self.assigned
            self.assigned[place.topic, place.partition] = place.offset

    def offsets_for_times(self, places: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        assert timeout > 0
        return [TopicPartition(place.topic, place.partition, 7) for place in places]

    def committed(self, places: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        assert timeout > 0
        commits = {0: OFFSET_INVALID, 1: 6}
        return [TopicPartition(place.topic, place.partition, commits[place.partition]) for place in places]

    def poll(self, _timeout_s: float) -> None:
        return None

    def close(self) -> None:
        """There is nothing to close."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(module, "Consumer", lambda _config: cluster)
    monkeypatch.setattr(module, "LIST_AGAIN_S", 0.0)
    return cluster


def reader(*, follows: bool) -> Reader:
    trouble = SimpleNamespace(hopeless=False, reason=None, servers="x")
    settings = SimpleNamespace(kafka_bootstrap_servers="x")
    connection = SimpleNamespace(config=dict, trouble=lambda: trouble, settings=settings)
    return Reader(cast("Connection", connection), ("a", "b"), follows=follows)


def test_partitions_that_are_added_are_read_from_their_beginning(cluster: Cluster) -> None:
    with reader(follows=True) as following:
        following.from_end()
        following.poll(0)
        assert cluster.assigned == {("a", 0): 7, ("b", 0): 7, ("b", 1): 7}
        cluster.partitions["a"] = 3
        following.poll(0)
        assert cluster.assigned == {("a", 0): 7, ("b", 0): 7, ("b", 1): 7} | {
            ("a", 1): OFFSET_BEGINNING,
            ("a", 2): OFFSET_BEGINNING,
        }
        following.poll(0)
        assert following.partition_count == 5


def test_of_some_topics_only_the_recent_records_that_are_not_finished_are_read(cluster: Cluster) -> None:
    with reader(follows=True) as following:
        following.recent({"b": 5})
        assert cluster.assigned == {("a", 0): OFFSET_BEGINNING, ("b", 0): 2, ("b", 1): 2}
        following.recent({"b": 5}, groups=("workers",))
        assert cluster.assigned == {("a", 0): OFFSET_BEGINNING, ("b", 0): 2, ("b", 1): 6}
        following.recent({"b": 100})
        assert cluster.assigned["b", 0] == 0


def test_a_broker_that_is_away_is_asked_again(cluster: Cluster) -> None:
    with reader(follows=True) as following:
        following.from_beginning()
        cluster.down, cluster.partitions["b"] = True, 3
        following.poll(0)
        assert ("b", 2) not in cluster.assigned
        assert "does not answer" in str(following.unanswered)
        cluster.down = False
        following.poll(0)
        assert following.unanswered is None
        assert ("b", 2) in cluster.assigned


def test_the_cluster_is_not_asked_at_every_poll(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIST_AGAIN_S", 3600.0)
    with reader(follows=True) as following:
        following.from_beginning()
        for _ in range(5):
            following.poll(0)
    assert cluster.listed == 1


def test_one_that_reads_to_the_end_keeps_to_the_partitions_that_there_were(cluster: Cluster) -> None:
    with reader(follows=False) as reading:
        reading.from_beginning()
        cluster.partitions["a"] = 3
        reading.poll(0)
        assert len(cluster.assigned) == 3


def test_offsets_are_asked_for_again_while_a_leader_moves() -> None:
    codes = [KafkaError.FENCED_LEADER_EPOCH, KafkaError.NOT_LEADER_FOR_PARTITION, None]

    def offsets_for_times(places: list[TopicPartition], timeout: float) -> Any:
        assert timeout > 0
        code = codes.pop(0)
        if code is not None:
            raise KafkaException(KafkaError(code))
        return [SimpleNamespace(topic=place.topic, partition=place.partition, offset=7, error=None) for place in places]

    consumer = cast("Any", SimpleNamespace(offsets_for_times=offsets_for_times))
    assert offsets_at(consumer, [("t", 3)], 0) == {("t", 3): 7}
    codes[:] = [KafkaError.TOPIC_AUTHORIZATION_FAILED]
    with pytest.raises(KafkaException):
        offsets_at(consumer, [("t", 3)], 0)
