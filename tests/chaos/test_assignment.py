"""Partition assignment on real Kafka: every member gets the same partitions of all lanes, so lanes spread evenly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Consumer

from devtools.local.kafka import KafkaCluster
from worker import kafka_config
from worker.settings import Settings
from worker.topics import Topics, create_topics

MEMBERS = 3
SETTLE_TIMEOUT_S = 60.0

Holding = dict[str, frozenset[int]]


@contextmanager
def members(settings: Settings, topics: Topics) -> Iterator[list[Consumer]]:
    """Consumers with the worker's own configuration, in one group."""
    consumers = [
        Consumer(kafka_config.consumer_config(settings.model_copy(update={"worker_id": f"member-{n}"})))
        for n in range(MEMBERS)
    ]
    try:
        for consumer in consumers:
            consumer.subscribe(list(topics.requests))
        yield consumers
    finally:
        for consumer in consumers:
            consumer.close()


def holding(consumer: Consumer, topics: Topics) -> Holding:
    """The partitions that a member holds, by topic."""
    places = consumer.assignment()
    return {topic: frozenset(p.partition for p in places if p.topic == topic) for topic in topics.requests}


def settled(consumers: list[Consumer], topics: Topics, done: Callable[[list[Holding]], bool]) -> list[Holding]:
    """What the members hold once `done`, or at the end of the time."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    found: list[Holding] = []
    while time.monotonic() < deadline:
        for consumer in consumers:
            consumer.poll(0.05)
        found = [holding(consumer, topics) for consumer in consumers]
        if done(found):
            break
    return found


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
@pytest.mark.parametrize("partitions", [6, 12])
def test_urgent_partitions_spread_evenly_over_the_members(
    kafka: KafkaCluster, topics: Topics, protocol: str, partitions: int
) -> None:
    create_topics(kafka.bootstrap_servers, topics, partitions)
    settings = Settings.model_validate(
        {
            "kafka_bootstrap_servers": kafka.bootstrap_servers,
            "kafka_group_id": f"{topics.prefix}group",
            "kafka_group_protocol": protocol,
        }
    )

    def even(found: list[Holding]) -> bool:
        return all(len(places) == partitions // MEMBERS for member in found for places in member.values())

    with members(settings, topics) as consumers:
        found = settled(consumers, topics, even)
    urgent = [member[topics.urgent] for member in found]
    assert sorted(map(len, urgent)) == [partitions // MEMBERS] * MEMBERS
    assert frozenset().union(*urgent) == frozenset(range(partitions))
    for member in found:
        assert len(set(member.values())) == 1, "the lanes are not co-partitioned"
