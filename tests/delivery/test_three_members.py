"""One transaction for three members of a group on real Kafka: all of it, or nothing where one of them is out."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, TopicPartition

from devtools.local.kafka import KafkaCluster
from worker import kafka_config
from worker.delivery.exactly_once import TRANSACTION_CONFIG, ExactlyOnce
from worker.delivery.producer import TransactionalProducer
from worker.delivery.transport import Encoded, Offset, TryAgain
from worker.job import Lane
from worker.settings import Settings
from worker.topic_admin import create_topics
from worker.topics import Topics


def joined(settings: Settings, topics: Topics) -> dict[str, Consumer]:
    """A member for each topic that has its partition."""
    members = {
        topic: Consumer(kafka_config.consumer_config(settings, lane))
        for topic, lane in zip(topics.requests, Lane, strict=True)
    }
    for topic, member in members.items():
        member.subscribe([topic])
    deadline = time.monotonic() + 60
    while not all(member.assignment() for member in members.values()):
        assert time.monotonic() < deadline
        for member in members.values():
            member.poll(0.05)
    return members


def offsets(topics: Sequence[str], offset: int) -> list[Offset]:
    return [Offset(topic, 0, offset, f"map of {offset}", finishing=True) for topic in topics]


def test_one_member_that_has_left_is_enough_for_nothing_to_take_place(kafka: KafkaCluster, topics: Topics) -> None:
    create_topics(kafka.bootstrap_servers, topics, 1)
    settings = Settings(
        _env_file=None, kafka_bootstrap_servers=kafka.bootstrap_servers, kafka_group_id=f"{topics.prefix}group"
    )
    members = joined(settings, topics)
    reader = Consumer(kafka_config.offsets_reader_config(settings))

    def committed() -> list[tuple[int, str | None]]:
        places = reader.committed([TopicPartition(topic, 0) for topic in topics.requests], 30)
        return [(place.offset, place.metadata) for place in places]

    made: list[TransactionalProducer] = []

    def make() -> TransactionalProducer:
        identity = {"transactional.id": uuid.uuid4().hex}
        made.append(TransactionalProducer(kafka_config.producer_config(settings, TRANSACTION_CONFIG | identity)))
        return made[-1]

    membership: Mapping[str, Any] = {topic: m.consumer_group_metadata() for topic, m in members.items()}
    transport = ExactlyOnce(make, cast("Any", SimpleNamespace(membership=membership)))
    transport.prepare()
    record = Encoded(topics.completed, b"k", b"v", [])
    transport.send([record], offsets(topics.requests, 1), membership)
    assert committed() == [(1, "map of 1")] * 3

    members[topics.high].close()
    with pytest.raises(TryAgain):
        transport.send([record], offsets(topics.requests, 2), membership)
    assert committed() == [(1, "map of 1")] * 3

    # The others go on with the same producer, in the name of who they are now.
    others = [topic for topic in topics.requests if topic != topics.high]
    for topic in others:
        members[topic].poll(1)
    fresh = {topic: members[topic].consumer_group_metadata() for topic in others}
    deadline = time.monotonic() + 30
    while True:
        transport.prepare(again=True)
        try:
            transport.send([record], offsets(others, 3), fresh)
            break
        except TryAgain:
            assert time.monotonic() < deadline
            for topic in others:
                members[topic].poll(0.2)
            fresh = {topic: members[topic].consumer_group_metadata() for topic in others}
    assert committed() == [(3, "map of 3"), (1, "map of 1"), (3, "map of 3")]
    assert len(made) == 1
    for topic in others:
        members[topic].close()
    reader.close()
