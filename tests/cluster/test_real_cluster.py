"""The check against real Kafka: a broker with an authorizer, and one user with no rights beside one with all."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import yaml
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from devtools.local.embedded import EmbeddedBroker
from devtools.local.kafka import KafkaCluster
from devtools.local.process import free_port
from tests.conftest import require_java
from tests.deploy.tools import ROOT
from worker.cluster.check import Needs
from worker.cluster.checker import ClusterChecker, make_checker, require
from worker.cluster.contact import Contact
from worker.cluster.facts import ClusterUnavailable
from worker.dispatch.start import dispatch_settings
from worker.doctor import consuming, kafka, transactions
from worker.doctor.finding import Level
from worker.errors import ClusterError
from worker.intake.membership import FirstAssignment
from worker.settings import Settings
from worker.topic_admin import create_topics, describe_topics
from worker.topics import Topics

PARTITIONS = 2
USER = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
    "sasl.username": "worker",
    "sasl.password": "secret",
}
GROUP = "cluster-check"
WITHIN_S = 30.0


@pytest.fixture(scope="module")
def sasl_port() -> int:
    """Where the user `worker` connects, who starts with no rights."""
    return free_port()


@pytest.fixture(scope="module")
def guarded(sasl_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """A broker that creates topics when they are asked for by name, and knows rights: on its first port all of them."""
    require_java()
    first, controller = free_port(), free_port()
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    listeners = f"PLAINTEXT://127.0.0.1:{first},SASL://127.0.0.1:{sasl_port}"
    settings = {
        "auto.create.topics.enable": "true",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT",
        "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": listeners,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl.plain.sasl.jaas.config": f'{login} required user_worker="secret";',
    }
    with KafkaCluster(1, tmp_path_factory.mktemp("guarded"), [first], settings) as cluster:
        yield cluster


@pytest.fixture
def admin(guarded: KafkaCluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": guarded.bootstrap_servers})


def checker(servers: str, topics: Topics, properties: Mapping[str, str] | None = None) -> ClusterChecker:
    settings = Settings(
        _env_file=None,
        kafka_bootstrap_servers=servers,
        kafka_topic_prefix=topics.prefix,
        kafka_group_id=GROUP,
        kafka_properties=dict(properties or {}),
    )
    return make_checker(settings)


def found(checker: ClusterChecker) -> list[str]:
    return [problem.text for problem in checker.check(10)]


def until(condition: Callable[[], bool], what: str, poll: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, what
        poll()


def create(admin: AdminClient, layouts: Mapping[str, int]) -> None:
    for future in admin.create_topics([NewTopic(name, count, 1) for name, count in layouts.items()]).values():
        future.result(30)


class TestTopics:
    def test_the_topics_that_are_created_here_are_sound(self, guarded: KafkaCluster, topics: Topics) -> None:
        create_topics(guarded.bootstrap_servers, topics, PARTITIONS)
        require(checker(guarded.bootstrap_servers, topics))

    def test_a_wrong_prefix_is_told_and_creates_nothing(
        self, guarded: KafkaCluster, admin: AdminClient, topics: Topics
    ) -> None:
        create_topics(guarded.bootstrap_servers, topics, PARTITIONS)
        wrong = Topics(topics.prefix.upper())
        before = set(admin.list_topics(timeout=10).topics)
        with pytest.raises(ClusterError) as raised:
            require(checker(guarded.bootstrap_servers, wrong))
        [line] = str(raised.value).splitlines()
        assert f"none of the topics exists with KAFKA_TOPIC_PREFIX '{wrong.prefix}'" in line
        assert f"'{topics.prefix}'" in line, "the prefix in the other case is suggested"
        assert set(admin.list_topics(timeout=10).topics) - before <= {"__consumer_offsets"}

    def test_each_problem_is_a_line(self, guarded: KafkaCluster, admin: AdminClient, topics: Topics) -> None:
        create(admin, {topics.high: 1, topics.urgent: 2, topics.normal: 2, topics.completed: 1, topics.failed: 1})
        create(admin, {topics.cancellations: 1, topics.dead_letter: 1})
        with pytest.raises(ClusterError) as raised:
            require(checker(guarded.bootstrap_servers, topics))
        missing, unequal, small = str(raised.value).splitlines()
        assert f"topic {topics.status} does not exist" in missing
        assert f"{topics.high} has 1" in unequal
        assert f"topic {topics.dead_letter}: max.message.bytes is 1048588" in small

    def test_a_topic_created_since_is_no_problem_any_more(
        self, guarded: KafkaCluster, admin: AdminClient, topics: Topics
    ) -> None:
        create_topics(guarded.bootstrap_servers, topics, PARTITIONS)
        one = checker(guarded.bootstrap_servers, topics)
        admin.delete_topics([topics.failed])[topics.failed].result(30)
        until(lambda: len(found(one)) == 1, "the deleted topic was not missed", lambda: None)
        create_topics(guarded.bootstrap_servers, topics, PARTITIONS)
        until(lambda: found(one) == [], "the new topic was not seen", lambda: None)

    def test_the_brokers_limit_for_offset_metadata_is_read(self, guarded: KafkaCluster, topics: Topics) -> None:
        create_topics(guarded.bootstrap_servers, topics, PARTITIONS)
        config: dict[str, Any] = {"bootstrap.servers": guarded.bootstrap_servers}
        needs = Needs(topics, GROUP, 8_000, offset_metadata_bytes=5_000)
        [text] = found(ClusterChecker(config, needs))
        assert "offset.metadata.max.bytes of the brokers is 4096" in text


class TestRights:
    def test_they_are_missed_and_then_found(
        self, guarded: KafkaCluster, admin: AdminClient, sasl_port: int, topics: Topics
    ) -> None:
        create_topics(guarded.bootstrap_servers, topics, PARTITIONS)
        user = checker(f"127.0.0.1:{sasl_port}", topics, properties=USER)
        hidden = found(user)
        *of_topics, of_group = hidden
        assert len(of_topics) == len(topics.all)
        for name, text in zip(user._needs.rights, of_topics, strict=True):
            assert f"topic {name} cannot be seen" in text
        assert f"consumer group {GROUP}: this Kafka user has no right to READ" in of_group
        # The least that a worker needs (k8s/kafka/user.yaml), but for one right of the wrong kind.
        grant(
            admin,
            {name: AclOperation[right] for name, right in user._needs.rights.items()}
            | {topics.failed: AclOperation.READ},
        )
        until(lambda: len(found(user)) == 1, "the rights were not seen", lambda: None)
        assert f"topic {topics.failed}: this Kafka user has no right to WRITE" in found(user)[0]
        grant(admin, {topics.failed: AclOperation.WRITE})
        until(lambda: found(user) == [], "the last right was not seen", lambda: None)


class TestDoctor:
    """The checks of `sdxl-worker doctor` that no fake can show: rights on a transactional id and on a fetch."""

    def test_a_transactional_id_needs_its_right(
        self, guarded: KafkaCluster, admin: AdminClient, sasl_port: int, topics: Topics
    ) -> None:
        create_topics(guarded.bootstrap_servers, topics, PARTITIONS)
        user = doctors_settings(f"127.0.0.1:{sasl_port}", topics, USER)
        [refused] = transactions.check(user)
        assert refused.level is Level.FAILED
        assert "TRANSACTIONAL_ID_AUTHORIZATION_FAILED" in refused.text
        assert f"begin with {GROUP}-{topics.prefix}" in refused.advice
        for future in admin.create_acls([may_use_transactional_ids(f"{GROUP}-{topics.prefix}")]).values():
            future.result(30)
        until(lambda: [f.level for f in transactions.check(user)] == [Level.OK], "the right was not seen", lambda: None)

    def test_nothing_is_left_in_the_topics_and_what_cannot_be_read_is_told(
        self, guarded: KafkaCluster, sasl_port: int, topics: Topics
    ) -> None:
        create_topics(guarded.bootstrap_servers, topics, PARTITIONS)
        free = doctors_settings(guarded.bootstrap_servers, topics)
        found = [finding for check in (kafka, consuming, transactions) for finding in check.check(free)]
        assert {finding.level for finding in found} == {Level.OK}
        described = describe_topics(guarded.bootstrap_servers, topics)
        assert sum(place.high for topic in described for place in topic.partitions) == 0
        hidden = list(consuming.check(doctors_settings(f"127.0.0.1:{sasl_port}", topics, USER)))
        assert {finding.level for finding in hidden} <= {Level.FAILED, Level.SKIPPED}
        assert all("secret" not in finding.text for finding in hidden)


def doctors_settings(servers: str, topics: Topics, properties: Mapping[str, str] | None = None) -> Settings:
    return Settings(
        _env_file=None,
        kafka_bootstrap_servers=servers,
        kafka_topic_prefix=topics.prefix,
        kafka_group_id=GROUP,
        kafka_properties=dict(properties or {}),
    )


def may_use_transactional_ids(prefix: str) -> AclBinding:
    kind, way = ResourceType.TRANSACTIONAL_ID, ResourcePatternType.PREFIXED
    return AclBinding(kind, prefix, way, "User:worker", "*", AclOperation.WRITE, AclPermissionType.ALLOW)


def grant(admin: AdminClient, rights: Mapping[str, AclOperation]) -> None:
    """Rights on topics, and reading the group."""
    bindings = [(ResourceType.TOPIC, name, operation) for name, operation in rights.items()]
    bindings.append((ResourceType.GROUP, GROUP, AclOperation.READ))
    acls = [
        AclBinding(kind, name, ResourcePatternType.LITERAL, "User:worker", "*", operation, AclPermissionType.ALLOW)
        for kind, name, operation in bindings
    ]
    for future in admin.create_acls(acls).values():
        future.result(30)


def arrive(first: FirstAssignment, _consumer: Consumer, _partitions: list[TopicPartition]) -> None:
    """The callback of a rebalance."""
    first.on_assigned()


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_a_member_without_partitions_has_its_first_assignment(guarded: KafkaCluster, protocol: str) -> None:
    topic = f"one-{uuid.uuid4().hex[:8]}"
    create(AdminClient({"bootstrap.servers": guarded.bootstrap_servers}), {topic: 1})
    contacts = [Contact(time.monotonic), Contact(time.monotonic)]
    members = [
        Consumer(
            {
                "bootstrap.servers": guarded.bootstrap_servers,
                "group.id": topic,
                "group.protocol": protocol,
                "statistics.interval.ms": 200,
                "stats_cb": contact.on_statistics,
            }
        )
        for contact in contacts
    ]
    firsts = [FirstAssignment(), FirstAssignment()]

    def poll() -> None:
        for member, first in zip(members, firsts, strict=True):
            member.poll(0.05)
            first.observe(member.consumer_group_metadata(), time.monotonic())

    for member, first in zip(members, firsts, strict=True):
        member.subscribe([topic], on_assign=partial(arrive, first))
        assert not first.arrived
    until(lambda: all(first.arrived for first in firsts), "an assignment was not seen", poll)
    assert sorted(len(member.assignment()) for member in members) == [0, 1]
    until(lambda: all(contact.at is not None for contact in contacts), "no answer of Kafka was seen", poll)
    for member in members:
        member.close()


def test_the_embedded_broker_is_sound_as_far_as_it_tells(topics: Topics) -> None:
    with EmbeddedBroker() as broker:
        broker.create_topics(topics, PARTITIONS)
        assert found(checker(broker.bootstrap_servers, topics)) == []
        [problem] = checker(broker.bootstrap_servers, Topics("other.")).check(10)[:1]
        assert not problem.certain


@pytest.mark.parametrize(
    ("servers", "reason"),
    [("127.0.0.1:1", "127.0.0.1:1.*refused"), ("no-such-host.invalid:9092", "no-such-host.invalid")],
)
def test_an_address_where_nobody_answers_is_told_with_the_reason(servers: str, reason: str) -> None:
    with pytest.raises(ClusterUnavailable, match=reason):
        checker(servers, Topics()).check(1)


class TestUsersOfTheManifests:
    """The rights in k8s/ are given to the one user, each in turn, who then does what that role does."""

    @pytest.fixture(autouse=True)
    def role(self, guarded: KafkaCluster, admin: AdminClient, topics: Topics) -> Iterator[Callable[[str], None]]:
        create_topics(guarded.bootstrap_servers, topics, PARTITIONS)
        given: list[AclBinding] = []

        def become(file: str) -> None:
            acls = yaml.safe_load((ROOT / file).read_text())["spec"]["authorization"]["acls"]
            given.extend(binding for acl in acls for binding in bindings(acl, topics.prefix))
            for future in admin.create_acls(given).values():
                future.result(30)

        yield become
        filters = [
            AclBindingFilter(
                b.restype, b.name, b.resource_pattern_type, b.principal, "*", b.operation, b.permission_type
            )
            for b in given
        ]
        for future in admin.delete_acls(filters).values():
            future.result(30)

    def test_a_worker(self, role: Callable[[str], None], sasl_port: int, topics: Topics) -> None:
        role("k8s/kafka/user.yaml")
        user = settings_of(sasl_port, topics, "sdxl-worker")
        until(lambda: found(make_checker(user)) == [], "the rights do not suffice", lambda: None)
        assert [f.level for f in transactions.check(user)] == [Level.OK]
        assert {f.level for f in consuming.check(user)} <= {Level.OK, Level.SKIPPED}

    def test_a_dispatcher(
        self, role: Callable[[str], None], guarded: KafkaCluster, sasl_port: int, topics: Topics
    ) -> None:
        create_topics(guarded.bootstrap_servers, replace(topics, input="work"), PARTITIONS)
        role("k8s/clients/dispatcher.yaml")
        user = dispatch_settings(settings_of(sasl_port, topics, "sdxl-worker"))
        until(lambda: make_checker(user, dispatches=True).check(10) == [], "the rights do not suffice", lambda: None)
        assert [f.level for f in transactions.check(user)] == [Level.OK]

    @pytest.mark.parametrize(
        ("file", "topic", "forbidden"),
        [
            ("k8s/clients/producer.yaml", "urgent", "cancellations"),
            ("k8s/clients/canceller.yaml", "cancellations", "normal"),
        ],
    )
    def test_who_writes(
        self, role: Callable[[str], None], sasl_port: int, topics: Topics, file: str, topic: str, forbidden: str
    ) -> None:
        role(file)
        until(lambda: write(sasl_port, getattr(topics, topic)) is None, "it may not write", lambda: None)
        assert write(sasl_port, getattr(topics, forbidden)) is not None

    def test_a_notifier(self, role: Callable[[str], None], sasl_port: int, topics: Topics) -> None:
        role("k8s/clients/notifier.yaml")
        reader = Consumer(
            {
                "bootstrap.servers": f"127.0.0.1:{sasl_port}", **USER, "group.id": "sdxl-notifier-shop",
                "isolation.level": "read_committed",
            }
        )  # fmt: skip
        assigned: list[TopicPartition] = []
        reader.subscribe([topics.completed, topics.failed], on_assign=lambda _, partitions: assigned.extend(partitions))
        until(lambda: len(assigned) == 2 * PARTITIONS, "it was given no partition", lambda: reader.poll(0.1))
        reader.commit(offsets=[TopicPartition(topics.completed, 0, 0)], asynchronous=False)
        reader.close()
        assert write(sasl_port, topics.urgent) is not None


def settings_of(port: int, topics: Topics, group: str) -> Settings:
    return Settings(
        _env_file=None,
        kafka_bootstrap_servers=f"127.0.0.1:{port}",
        kafka_topic_prefix=topics.prefix,
        kafka_group_id=group,
        kafka_properties=USER,
    )


def write(port: int, topic: str) -> KafkaError | None:
    """What an idempotent producer is told."""
    errors: list[KafkaError | None] = []
    producer = Producer(
        {"bootstrap.servers": f"127.0.0.1:{port}", **USER, "enable.idempotence": True, "message.timeout.ms": 3_000}
    )
    producer.produce(topic, b"x", b"key", on_delivery=lambda error, _: errors.append(error))
    producer.flush(10)
    return errors[0] if errors else KafkaError(KafkaError._TIMED_OUT)


def bindings(acl: Mapping[str, Any], prefix: str) -> list[AclBinding]:
    """The rights of an entry of a KafkaUser, for the topics of this test."""
    resource = acl["resource"]
    kind = {
        "topic": ResourceType.TOPIC,
        "group": ResourceType.GROUP,
        "transactionalId": ResourceType.TRANSACTIONAL_ID,
    }[resource["type"]]
    way = ResourcePatternType.PREFIXED if resource["patternType"] == "prefix" else ResourcePatternType.LITERAL
    name = prefix + resource["name"] if resource["type"] == "topic" else resource["name"]
    return [
        AclBinding(kind, name, way, "User:worker", "*", AclOperation[operation.upper()], AclPermissionType.ALLOW)
        for operation in acl["operations"]
    ]
