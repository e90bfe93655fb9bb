"""Partition assignment on real Kafka: each worker has its even part of each lane, and one that comes or goes moves only
what it must."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from devtools.local.kafka import KafkaCluster
from worker import kafka_config
from worker.intake.lane_members import LaneMembers
from worker.intake.patience import Patience
from worker.job import Lane
from worker.settings import Settings
from worker.threads import SystemThreads
from worker.topic_admin import create_topics
from worker.topics import Topics

SETTLE_TIMEOUT_S = 60.0
PARTITIONS = 12


@dataclass
class Worker:
    """The members of one worker, with its own configuration; `held` follows their callbacks."""

    members: LaneMembers
    topics: Topics
    held: set[tuple[str, int]] = field(default_factory=set)
    given_up: set[tuple[str, int]] = field(default_factory=set)
    errors: set[int] = field(default_factory=set)

    @staticmethod
    def join(settings: Settings, topics: Topics) -> Worker:
        patience = Patience(topics.requests, time.monotonic, 300.0)
        consumers = {
            topic: Consumer(kafka_config.consumer_config(settings, lane))
            for topic, lane in zip(topics.requests, Lane, strict=True)
        }
        worker = Worker(LaneMembers(consumers, patience), topics)
        worker.members.subscribe(worker._assigned, worker._gone, worker._gone)
        return worker

    def _assigned(self, partitions: list[TopicPartition]) -> None:
        self.members.incremental_assign(partitions)
        self.held |= _keys(partitions)

    def _gone(self, partitions: list[TopicPartition]) -> None:
        self.held -= _keys(partitions)
        self.given_up |= _keys(partitions)

    def poll(self) -> None:
        for topic in self.topics.requests:
            message = self.members.poll(topic, 0.01)
            error = None if message is None else message.error()
            if error is not None:
                assert not error.fatal()
                self.errors.add(error.code())
        self.members.metadata(time.monotonic())

    def leave(self) -> None:
        # Partitions that are given up within `close` have frozen the interpreter here, once (`worker/threads.py`).
        for topic in self.topics.requests:
            self.members._consumers[topic].unsubscribe()
        deadline = time.monotonic() + 20.0
        while self.held and time.monotonic() < deadline:
            self.poll()
        self.members.leave(SystemThreads(), 20.0)

    def counts(self) -> list[int]:
        """Partitions by lane."""
        return [sum(topic == held for held, _ in self.held) for topic in self.topics.requests]


class Older:
    """A worker as it was: one member with the assignor `range` for all topics."""

    def __init__(self, settings: Settings, topics: Topics) -> None:
        is_classic = settings.kafka_group_protocol == "classic"
        assignor = {"partition.assignment.strategy" if is_classic else "group.remote.assignor": "range"}
        self._consumer = Consumer(kafka_config.consumer_config(settings, Lane.URGENT) | assignor)
        self.held: set[tuple[str, int]] = set()
        self._consumer.subscribe(list(topics.requests), on_assign=self._assigned, on_revoke=self._gone)

    def _assigned(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.held |= _keys(partitions)

    def _gone(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.held -= _keys(partitions)

    def poll(self) -> None:
        self._consumer.poll(0.01)

    def leave(self) -> None:
        self._consumer.close()


def _keys(partitions: list[TopicPartition]) -> set[tuple[str, int]]:
    return {(place.topic, place.partition) for place in partitions}


class Fleet:
    """Workers of one group."""

    def __init__(self, settings: Settings, topics: Topics) -> None:
        self._settings, self._topics = settings, topics
        self.workers: list[Worker | Older] = []

    def join(self) -> Worker:
        worker = Worker.join(self._settings, self._topics)
        self.workers.append(worker)
        return worker

    def leave(self, worker: Worker | Older) -> None:
        self.workers.remove(worker)
        worker.leave()

    def until(self, done: Callable[[], bool]) -> None:
        """Poll everybody until `done`."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while not done():
            assert time.monotonic() < deadline, [sorted(worker.held) for worker in self.workers]
            for worker in self.workers:
                worker.poll()

    def is_even(self) -> bool:
        """Whether each worker has the same part of every lane, and all partitions are somebody's."""
        part = PARTITIONS // len(self.workers)
        return all(isinstance(w, Worker) and w.counts() == [part] * 3 for w in self.workers) and self.is_whole()

    def is_whole(self) -> bool:
        """Whether every partition has an owner; two owners of one are a failure at any time."""
        owned = [key for worker in self.workers for key in worker.held]
        assert len(owned) == len(set(owned)), "a partition has two owners"
        return len(owned) == 3 * PARTITIONS


@contextmanager
def fleet(kafka: KafkaCluster, topics: Topics, protocol: str = "consumer") -> Iterator[Fleet]:
    create_topics(kafka.bootstrap_servers, topics, PARTITIONS)
    settings = Settings.model_validate(
        {
            "kafka_bootstrap_servers": kafka.bootstrap_servers,
            "kafka_group_id": f"{topics.prefix}group",
            "kafka_group_protocol": protocol,
            "worker_id": "one-of-them",
        }
    )
    found = Fleet(settings, topics)
    try:
        yield found
    finally:
        for worker in found.workers:
            worker.leave()


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_lanes_are_even_and_a_worker_that_comes_or_goes_moves_nothing_between_the_others(
    kafka: KafkaCluster, topics: Topics, protocol: str
) -> None:
    with fleet(kafka, topics, protocol) as group:
        others = [group.join() for _ in range(3)]
        group.until(group.is_even)
        for worker in others:
            worker.given_up.clear()
        before = {id(worker): set(worker.held) for worker in others}
        newcomer = group.join()
        group.until(group.is_even)
        # A quarter of each lane, and every partition that was given up is the newcomer's.
        assert sum(len(worker.given_up) for worker in others) == len(newcomer.held) == 3 * PARTITIONS // 4
        assert set().union(*(worker.given_up for worker in others)) == newcomer.held
        for worker in others:
            assert worker.held == before[id(worker)] - newcomer.held
            worker.given_up.clear()
        group.leave(newcomer)
        group.until(group.is_even)
        assert [worker.given_up for worker in others] == [set(), set(), set()]


def test_workers_of_the_old_kind_are_replaced_one_by_one(kafka: KafkaCluster, topics: Topics) -> None:
    """Every partition has one owner while the group is mixed, and in the end all is even."""
    with fleet(kafka, topics) as group:
        settings, old = group._settings, 3
        group.workers += [Older(settings, topics) for _ in range(old)]
        group.until(group.is_whole)
        for _ in range(old):
            group.leave(group.workers[0])
            group.join()
            group.until(group.is_whole)
        group.until(group.is_even)


def test_in_the_classic_protocol_new_workers_wait_until_the_last_old_one_has_gone(
    kafka: KafkaCluster, topics: Topics
) -> None:
    """As docs/deploy.md says of upgrades; the worker takes the refusal as a reason to look at the cluster."""
    with fleet(kafka, topics, "classic") as group:
        group.workers.append(Older(group._settings, topics))
        group.until(group.is_whole)
        new = group.join()
        group.until(lambda: {KafkaError.INCONSISTENT_GROUP_PROTOCOL} <= new.errors)
        assert group.is_whole()
        assert not new.held
        group.leave(group.workers[0])
        group.until(group.is_even)
