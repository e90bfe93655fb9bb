"""Topics on real Kafka: they are created as specified, only once, and with the same partition count for all lanes."""

from __future__ import annotations

import math
from contextlib import closing

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from devtools.local.kafka import KafkaCluster
from worker.cli.topics import count_records
from worker.client.connection import Connection
from worker.client.errors import CommandError
from worker.client.ranges import RangeReader
from worker.events.codec import make_codec
from worker.settings import Settings
from worker.topic_admin import TopicMismatchError, TopicsError, create_topics, describe_topics
from worker.topics import DAY_MS, Topics


def test_names_carry_the_prefix() -> None:
    assert Topics().urgent == "generation.requests.urgent"
    topics = Topics("stage.")
    assert topics.requests == (
        "stage.generation.requests.urgent",
        "stage.generation.requests.high",
        "stage.generation.requests.normal",
    )
    assert topics.dead_letter == "stage.generation.dead-letter"
    assert len(set(topics.all)) == 8


def test_topics_are_created_with_retention_and_cleanup_of_the_contract(kafka: KafkaCluster, topics: Topics) -> None:
    assert set(create_topics(kafka.bootstrap_servers, topics, partitions=3)) == set(topics.all)
    described = {topic.name: topic for topic in describe_topics(kafka.bootstrap_servers, topics)}
    assert list(described) == list(topics.all)
    days = {name: int(topic.config["retention.ms"]) // DAY_MS for name, topic in described.items()}
    rare = {topics.cancellations: 1, topics.dead_letter: 30}
    assert days == {name: rare.get(name, 7) for name in topics.all}
    policies = {name: topic.config["cleanup.policy"] for name, topic in described.items()}
    assert policies == dict.fromkeys(topics.all, "delete") | {topics.status: "compact,delete"}
    assert [described[name].partition_count for name in topics.requests] == [3, 3, 3]
    assert described[topics.urgent].replication_factor == 1
    assert described[topics.urgent].partitions[0].leader == 1
    larger = int(described[topics.dead_letter].config["max.message.bytes"])
    assert larger > int(described[topics.urgent].config["max.message.bytes"])


def test_ranges_are_found_by_time_and_hold_no_transaction_markers(kafka: KafkaCluster, topics: Topics) -> None:
    create_topics(kafka.bootstrap_servers, topics, partitions=2)
    config = {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topics.prefix}
    producer = Producer(config)
    producer.init_transactions(30)
    for ends in ("commit", "abort", "commit"):
        producer.begin_transaction()
        for number in range(10):
            moment = 1_700_000_000_000 + number
            producer.produce(topics.completed, ends, str(number), partition=number % 2, timestamp=moment)
        producer.flush(30)
        (producer.commit_transaction if ends == "commit" else producer.abort_transaction)(30)
    settings = Settings(_env_file=None, kafka_bootstrap_servers=kafka.bootstrap_servers)
    reader = RangeReader(Connection(settings, topics, make_codec(settings)))
    counted = count_records(Connection(settings, topics, make_codec(settings)), [topics.completed], math.inf)
    assert counted == {topics.completed: 20}
    with closing(reader):
        whole = reader.ranges([topics.completed])
        assert sum(one.end - one.first for one in whole) == 36, "30 records and 6 markers"
        assert [message.value() for message in reader.read(whole)] == [b"commit"] * 20
        # From 4 ms on in the first transaction; the times begin anew in the others, which come after it.
        late = reader.ranges([topics.completed], 1_700_000_000_004)
        assert [one.first for one in late] == [2, 2]
        early = reader.ranges([topics.completed], None, 1_700_000_000_004)
        assert len(list(reader.read(early))) == 4
        assert list(reader.read(reader.ranges([topics.completed], 1_800_000_000_000))) == []
        with pytest.raises(CommandError, match="no topic nothing"):
            reader.ranges(["nothing"])


def test_creating_again_changes_nothing(kafka: KafkaCluster, topics: Topics) -> None:
    create_topics({"bootstrap.servers": kafka.bootstrap_servers}, topics, partitions=2)
    assert create_topics({"bootstrap.servers": kafka.bootstrap_servers}, topics, partitions=2) == ()


def test_only_what_is_missing_is_created(kafka: KafkaCluster, topics: Topics) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.create_topics([NewTopic(topics.high, 2, 1)])[topics.high].result(30)
    assert set(create_topics(kafka.bootstrap_servers, topics, partitions=2)) == set(topics.all) - {topics.high}


def test_request_topics_with_another_partition_count_are_refused(kafka: KafkaCluster, topics: Topics) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.create_topics([NewTopic(topics.normal, 4, 1)])[topics.normal].result(30)
    with pytest.raises(TopicMismatchError, match=rf"3 here, but {topics.normal} has 4"):
        create_topics(kafka.bootstrap_servers, topics, partitions=3)
    assert [topic.name for topic in describe_topics(kafka.bootstrap_servers, topics)] == [topics.normal]


def test_a_topic_that_the_metadata_does_not_show_yet_counts(
    kafka: KafkaCluster, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    before = admin.list_topics(timeout=10)
    admin.create_topics([NewTopic(topics.normal, 4, 1)])[topics.normal].result(30)
    answers = iter([before])
    current = AdminClient.list_topics
    monkeypatch.setattr(AdminClient, "list_topics", lambda self, **wait: next(answers, None) or current(self, **wait))
    with pytest.raises(TopicMismatchError, match=rf"3 here, but {topics.normal} has 4"):
        create_topics(kafka.bootstrap_servers, topics, partitions=3)
    assert [topic.name for topic in describe_topics(kafka.bootstrap_servers, topics)] == [topics.normal]


def test_a_replication_factor_beyond_the_brokers_is_refused(kafka: KafkaCluster, topics: Topics) -> None:
    with pytest.raises(TopicsError, match="could not be created"):
        create_topics(kafka.bootstrap_servers, topics, partitions=1, replication_factor=3)


def test_watermarks_tell_what_the_partitions_hold(kafka: KafkaCluster, topics: Topics) -> None:
    create_topics(kafka.bootstrap_servers, topics, partitions=2)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for _ in range(3):
        producer.produce(topics.urgent, b"x", key=b"job", partition=1)
    assert producer.flush(30) == 0
    urgent = describe_topics(kafka.bootstrap_servers, topics)[0]
    assert [(part.partition, part.low, part.high) for part in urgent.partitions] == [(0, 0, 0), (1, 0, 3)]


def test_nothing_is_described_where_nothing_exists(kafka: KafkaCluster, topics: Topics) -> None:
    assert describe_topics(kafka.bootstrap_servers, topics) == ()


def test_a_cluster_that_does_not_answer_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.topic_admin.ADMIN_TIMEOUT_S", 0.5)
    with pytest.raises(TopicsError, match="did not answer"):
        describe_topics({"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
