"""A right of the worker's Kafka user is removed while jobs run, and comes back: an outage, nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stubs do not mark re-exports
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from devtools.local.kafka import KafkaCluster
from devtools.local.process import free_port
from tests.conftest import require_java
from tests.harness import Broker, Client, Site
from tests.path.test_hostile import stand_in
from tests.path.test_outages import all_completed_once, until
from worker.topic_admin import create_topics
from worker.topics import Topics

USER = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "KAFKA_SASL_MECHANISM": "PLAIN",
    "KAFKA_SASL_USERNAME": "worker",
    "KAFKA_SASL_PASSWORD": "secret",
}
JOBS = 6
NOT_READY_WITHIN_S = 90.0

KINDS = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "id": ResourceType.TRANSACTIONAL_ID}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaCluster, str]]:
    """A broker that knows rights, and where the user `worker` connects; on its own port all are allowed."""
    require_java()
    first, second, controller = free_port(), free_port(), free_port()
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    listeners = f"PLAINTEXT://127.0.0.1:{first},SASL://127.0.0.1:{second}"
    settings = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        # What is not denied is allowed: each test takes one right away.
        "allow.everyone.if.no.acl.found": "true",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT",
        "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": listeners,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl.plain.sasl.jaas.config": f'{login} required user_worker="secret";',
    }
    with KafkaCluster(1, tmp_path_factory.mktemp("guarded"), [first], settings) as cluster:
        yield cluster, f"127.0.0.1:{second}"


def denied(site: Site, kind: str, name: str, operation: str) -> AclBinding:
    names = {"group": f"group-{site.topics.prefix}", "id": f"group-{site.topics.prefix}-{site.topics.prefix}one"}
    resource = names.get(kind) or getattr(site.topics, name)
    return AclBinding(
        KINDS[kind],
        resource,
        ResourcePatternType.LITERAL,
        "User:worker",
        "*",
        AclOperation[operation],
        AclPermissionType.DENY,
    )


def filter_of(binding: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        binding.restype,
        binding.name,
        binding.resource_pattern_type,
        binding.principal,
        binding.host,
        binding.operation,
        binding.permission_type,
    )


@pytest.mark.parametrize(
    ("kind", "name", "operation"),
    [
        ("topic", "completed", "WRITE"),
    ],
)
def test_jobs_wait_while_a_right_is_gone(
    apache_site: Site,
    guarded: tuple[KafkaCluster, str],
    topics: Topics,
    tmp_path: Path,
    kind: str,
    name: str,
    operation: str,
) -> None:
    cluster, address = guarded
    create_topics(cluster.bootstrap_servers, topics, partitions=2)
    site = replace(apache_site, topics=topics, broker=Broker(cluster.bootstrap_servers, {}, lambda _: None))
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
    client = Client(site)
    with stand_in(site, "one", tmp_path, KAFKA_BOOTSTRAP_SERVERS=address, **USER) as worker:
        jobs = [client.request("normal").job_id for _ in range(JOBS)]
        all_completed_once(client, jobs)
        until(lambda: worker.get("/ready")[0] == 200, "the worker is not ready")
        binding = denied(site, kind, name, operation)
        for future in admin.create_acls([binding]).values():
            future.result(30)
        try:
            jobs += [client.request("normal").job_id for _ in range(JOBS)]
            until(lambda: worker.get("/ready")[0] == 503, "the worker stays ready", NOT_READY_WITHIN_S)
            client.settle(5)
            assert worker.get("/health")[0] == 200
        finally:
            for future in admin.delete_acls([filter_of(binding)]).values():
                future.result(30)
        all_completed_once(client, jobs)
        until(lambda: worker.get("/ready")[0] == 200, "the worker is not ready again")
        assert worker.terminate() == 0
    client.close()
