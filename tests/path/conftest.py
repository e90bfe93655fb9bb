"""The sites of the contract tests: real Apache Kafka, and librdkafka's embedded broker."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.local.embedded import EmbeddedBroker
from devtools.local.kafka import KafkaCluster
from devtools.local.seaweedfs import SeaweedFS
from tests.harness import EMBEDDED_SETTINGS, Broker, Client, Site, WorkerProcess
from worker.topic_admin import create_topics
from worker.topics import Topics

PARTITIONS = 4


@pytest.fixture(scope="session")
def embedded() -> Iterator[Broker]:
    """librdkafka's own broker, which has no transactions."""
    with EmbeddedBroker() as broker:
        yield Broker(
            broker.bootstrap_servers,
            EMBEDDED_SETTINGS,
            lambda topics: broker.create_topics(topics, PARTITIONS),
        )


@pytest.fixture(scope="session")
def apache(kafka: KafkaCluster) -> Broker:
    """Real Kafka, where the worker's defaults hold: exactly-once and KIP-848."""
    return Broker(
        kafka.bootstrap_servers, {}, lambda topics: create_topics(kafka.bootstrap_servers, topics, PARTITIONS)
    )


def _prefix() -> Topics:
    return Topics(prefix=f"t{uuid.uuid4().hex[:8]}.")


@pytest.fixture(scope="module", params=["apache", "embedded"])
def site(request: pytest.FixtureRequest, s3: SeaweedFS, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A place with topics of its own, on each broker in turn."""
    broker: Broker = request.getfixturevalue(request.param)
    topics = _prefix()
    broker.create_topics(topics)
    return Site(broker, topics, s3, toy, tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def worker(site: Site) -> Iterator[WorkerProcess]:
    """One running worker; the tests of a module share it."""
    with site.worker("worker-1") as process:
        yield process
        assert process.terminate() == 0, f"the worker did not end cleanly, see {process.log}"


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[Client]:
    """A client that has seen every result of the module."""
    client = Client(site)
    yield client
    client.close()


@pytest.fixture
def apache_site(apache: Broker, s3: SeaweedFS, toy: Path, tmp_path: Path) -> Site:
    """Real Kafka with topics of this test's own."""
    topics = _prefix()
    apache.create_topics(topics)
    return Site(apache, topics, s3, toy, tmp_path)
