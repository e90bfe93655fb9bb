"""Apache Kafka on this machine: real transactions, and brokers that are really killed."""

from __future__ import annotations

import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from devtools.local.kafka import KafkaCluster
from devtools.local.kafka_jars import JavaMissingError, check_java, kafka_jars
from devtools.local.kafka_java import class_archive
from devtools.local.process import ProcessError


@pytest.fixture(scope="module")
def fragile(
    java: None,  # noqa: ARG001 - a fixture that is needed, not used
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[KafkaCluster]:
    """One broker for these tests alone, which may kill it but leave it running."""
    with KafkaCluster(1, tmp_path_factory.mktemp("fragile")) as cluster:
        yield cluster


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a process's files are read from Linux's /proc")
def test_a_broker_maps_its_classes_from_the_archive(fragile: KafkaCluster) -> None:
    [archive] = {
        line.split()[-1]
        for line in Path(f"/proc/{fragile.pid(1)}/maps").read_text().splitlines()
        if ".jsa" in line and str(kafka_jars()) in line
    }
    assert Path(archive).stat().st_size > 1_000_000


@pytest.mark.usefixtures("java")
def test_an_archive_that_cannot_be_written_is_tried_once(tmp_path: Path) -> None:
    tried: list[Path] = []
    archives = {class_archive(tmp_path / "kafka-libs", tried.append) for _ in range(2)}
    assert [archive.stat().st_size for archive in archives] == [0]
    assert len(tried) == 1


def create_topic(cluster: KafkaCluster, replicas: int = 1) -> str:
    name = f"t{uuid.uuid4().hex[:12]}"
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
    admin.create_topics([NewTopic(name, 1, replicas)])[name].result(30)
    return name


def produce(cluster: KafkaCluster, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers, "enable.idempotence": True})
    producer.produce(topic, value)
    assert producer.flush(60) == 0


def values(cluster: KafkaCluster, topic: str, count: int) -> list[bytes]:
    """Read the first `count` committed records of a one-partition topic."""
    settings = {
        "bootstrap.servers": cluster.bootstrap_servers,
        "group.id": "none",
        "enable.auto.commit": False,
    }
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[bytes] = []
    deadline = time.monotonic() + 30
    while len(found) < count and time.monotonic() < deadline:
        message = consumer.poll(0.1)
        value = message.value() if message is not None and message.error() is None else None
        if value is not None:
            found.append(value)
    consumer.close()
    return found


def test_records_come_back(kafka: KafkaCluster) -> None:
    topic = create_topic(kafka)
    produce(kafka, topic, b"one")
    assert values(kafka, topic, 1) == [b"one"]


def test_only_committed_transactions_are_seen(kafka: KafkaCluster) -> None:
    topic = create_topic(kafka)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"aborted")
    producer.flush(30)
    producer.abort_transaction(30)
    producer.begin_transaction()
    producer.produce(topic, b"committed")
    producer.commit_transaction(30)
    assert values(kafka, topic, 1) == [b"committed"]


def test_the_consumer_protocol_assigns_partitions(kafka: KafkaCluster) -> None:
    topic = create_topic(kafka)
    settings = {"bootstrap.servers": kafka.bootstrap_servers, "group.id": topic, "group.protocol": "consumer"}
    consumer = Consumer(settings)
    consumer.subscribe([topic])
    deadline = time.monotonic() + 20
    while not consumer.assignment() and time.monotonic() < deadline:
        consumer.poll(0.1)
    assert [place.partition for place in consumer.assignment()] == [0]
    consumer.close()


def test_unknown_topics_are_not_created(kafka: KafkaCluster) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.list_topics("no-such-topic", timeout=10)
    assert "no-such-topic" not in admin.list_topics(timeout=10).topics


def test_a_killed_broker_comes_back_with_its_records(fragile: KafkaCluster) -> None:
    topic = create_topic(fragile)
    produce(fragile, topic, b"one")
    fragile.kill(1)
    assert not fragile.running(1)
    fragile.start_broker(1)
    produce(fragile, topic, b"two")
    assert values(fragile, topic, 2) == [b"one", b"two"]


def test_a_new_cluster_object_continues_a_stopped_one(fragile: KafkaCluster) -> None:
    topic = create_topic(fragile)
    produce(fragile, topic, b"one")
    fragile.stop()
    assert not fragile.running(1)
    with KafkaCluster(1, fragile.directory) as successor:
        assert values(successor, topic, 1) == [b"one"]
    fragile.start()


def test_a_suspended_broker_answers_again_after_resume(fragile: KafkaCluster) -> None:
    topic = create_topic(fragile)
    producer = Producer({"bootstrap.servers": fragile.bootstrap_servers})
    fragile.suspend(1)
    producer.produce(topic, b"late")
    assert producer.flush(1) == 1
    fragile.resume(1)
    assert producer.flush(30) == 0


@pytest.mark.usefixtures("java")
def test_three_brokers_survive_the_death_of_one(tmp_path: Path) -> None:
    with KafkaCluster(3, tmp_path) as cluster:
        topic = create_topic(cluster, replicas=3)
        produce(cluster, topic, b"one")
        leader = AdminClient({"bootstrap.servers": cluster.bootstrap_servers}).list_topics(topic, timeout=10)
        victim = leader.topics[topic].partitions[0].leader
        cluster.kill(victim)
        produce(cluster, topic, b"two")
        producer = Producer({"bootstrap.servers": cluster.bootstrap_servers, "transactional.id": topic})
        producer.init_transactions(60)
        producer.begin_transaction()
        producer.produce(topic, b"three")
        producer.commit_transaction(60)
        assert values(cluster, topic, 3) == [b"one", b"two", b"three"]
        cluster.start_broker(victim)
        assert all(cluster.running(broker) for broker in cluster.broker_ids)
    assert not any(cluster.running(broker) for broker in cluster.broker_ids)


@pytest.mark.usefixtures("java")
def test_a_broker_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    cluster = KafkaCluster(1, tmp_path, settings={"compression.type": "nonsense"})
    with pytest.raises(ProcessError, match="nonsense"):
        cluster.start()
    assert not cluster.running(1)


@pytest.mark.usefixtures("kafka")
def test_jars_are_resolved_once() -> None:
    began = time.monotonic()
    assert any(kafka_jars().glob("kafka_2.13-*.jar"))
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("missing", ["java", "mvn"])
def test_a_missing_program_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None if program == missing else f"/bin/{program}")
    with pytest.raises(JavaMissingError, match=f"`{missing}` was not found"):
        check_java()
