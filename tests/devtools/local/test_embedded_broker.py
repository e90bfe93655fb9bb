"""The embedded broker: other processes can connect to it, and it has the topics that were created."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from devtools.local.embedded import EmbeddedBroker, EmbeddedBrokerError
from worker.topic_admin import TopicsError, create_topics, describe_topics
from worker.topics import Topics

SEND = """
import sys
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": sys.argv[1]})
producer.produce(sys.argv[2], b"from another process")
raise SystemExit(producer.flush(10))
"""


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as running:
        yield running


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_record_from_another_process_arrives(broker: EmbeddedBroker, protocol: str) -> None:
    broker.create_topic("letters", 3)
    subprocess.run([sys.executable, "-c", SEND, broker.bootstrap_servers, "letters"], check=True, timeout=30)
    settings = {"bootstrap.servers": broker.bootstrap_servers, "group.id": "g", "group.protocol": protocol}
    consumer = Consumer(settings | {"auto.offset.reset": "earliest", "fetch.wait.max.ms": 10})
    consumer.subscribe(["letters"])
    message = consumer.poll(15)
    consumer.close()
    assert message is not None
    assert message.value() == b"from another process"


def test_topics_have_the_contracts_names_and_partitions(broker: EmbeddedBroker) -> None:
    topics = Topics("demo.")
    broker.create_topics(topics, partitions=6)
    described = {topic.name: topic.partition_count for topic in describe_topics(broker.bootstrap_servers, topics)}
    assert list(described) == list(topics.all)
    assert described[topics.urgent] == described[topics.completed] == 6
    assert described[topics.cancellations] == 1


def test_a_topic_is_created_once(broker: EmbeddedBroker) -> None:
    broker.create_topic("letters", 3)
    with pytest.raises(EmbeddedBrokerError, match="already exists"):
        broker.create_topic("letters", 3)


def test_creation_over_the_wire_is_refused_at_once(broker: EmbeddedBroker) -> None:
    with pytest.raises(TopicsError, match="no controller"):
        create_topics(broker.bootstrap_servers)


def test_a_broker_that_is_down_takes_no_records_until_it_is_up_again(broker: EmbeddedBroker) -> None:
    broker.create_topic("letters", 1)
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap_servers, "reconnect.backoff.max.ms": 100, "log_level": 0}
    )
    broker.take_down(1)
    producer.produce("letters", b"x")
    assert producer.flush(0.5) == 1
    broker.bring_up(1)
    assert producer.flush(10) == 0


def test_it_stops_and_starts_empty(broker: EmbeddedBroker) -> None:
    broker.create_topic("letters", 1)
    broker.stop()
    broker.stop()
    assert not broker.running
    with pytest.raises(EmbeddedBrokerError, match="is not running"):
        broker.create_topic("letters", 1)
    broker.start()
    assert not AdminClient({"bootstrap.servers": broker.bootstrap_servers}).list_topics(timeout=5).topics
