"""Rights of the worker's Kafka user are taken while jobs run, and come back: an outage, nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from devtools.local.kafka import KafkaCluster
from devtools.local.process import LOOPBACK, free_port
from tests.conftest import require_java
from tests.harness import Broker, Client, Site, WorkerProcess
from tests.path.test_hostile import stand_in
from tests.path.test_outages import until
from tests.rights import BROKER_SETTINGS, LISTENER, USER, Rights, of_group, of_topic, of_transactional_ids
from worker.topic_admin import create_topics
from worker.topics import Topics

JOBS = 2
NOT_READY_WITHIN_S = 90.0


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaCluster, str]]:
    """A broker that knows rights, and where the user `worker` connects; on its own port all are allowed."""
    require_java()
    port = free_port()
    listeners = {LISTENER: [port]}
    folder = tmp_path_factory.mktemp("guarded")
    with KafkaCluster(1, folder, settings=BROKER_SETTINGS, listeners=listeners) as cluster:
        yield cluster, f"{LOOPBACK}:{port}"


@dataclass
class Traffic:
    """Requests of every lane, also such as must fail or become dead letters. `due`: in which topic each has to end."""

    client: Client
    due: dict[str, str] = field(default_factory=dict)

    def send(self) -> None:
        topics = self.client.site.topics
        for lane in ("urgent", "high", "normal"):
            for _ in range(JOBS):
                self.due[self.client.request(lane).job_id] = topics.completed
        self.due[self.client.request("high", num_inference_steps=0).job_id] = topics.failed
        broken = f"broken-{len(self.due)}"
        self.client.send(topics.normal, broken.encode(), b"no Avro")
        self.due[broken] = topics.dead_letter

    def all_ended_once(self) -> None:
        self.client.wait_for(lambda _: all(self.client.of(job) for job in self.due))
        self.client.settle(1)
        ended = [((result.key or b"").decode(), result.topic) for result in self.client.results]
        assert sorted(ended) == sorted(self.due.items())


def test_jobs_wait_while_rights_are_gone(
    apache_site: Site, guarded: tuple[KafkaCluster, str], topics: Topics, tmp_path: Path
) -> None:
    """One worker through all of them: the rights that are told together are taken together."""
    cluster, address = guarded
    create_topics(cluster.bootstrap_servers, topics, partitions=2)
    site = replace(apache_site, topics=topics, broker=Broker(cluster.bootstrap_servers, {}, lambda _: None))
    rights = Rights.at(cluster.bootstrap_servers)
    group = f"group-{topics.prefix}"
    identity = of_transactional_ids(f"{group}-{topics.prefix}one", "WRITE")
    rights_by_topic = {
        topics.normal: "READ",
        topics.high: "DESCRIBE",
        topics.cancellations: "READ",
        **dict.fromkeys((topics.completed, topics.failed, topics.status, topics.dead_letter), "WRITE"),
    }
    client = Client(site)
    traffic = Traffic(client)
    rights.take(identity)
    worker = stand_in(site, "one", tmp_path, KAFKA_BOOTSTRAP_SERVERS=address, **USER).start()

    def tells(*texts: str) -> None:
        """Wait until readiness names what is missing; the worker lives, and nothing is charged to a job."""
        until(lambda: _names(worker, texts), f"readiness does not name {texts}", NOT_READY_WITHIN_S)
        assert worker.get("/health")[0] == 200

    def goes_on() -> None:
        until(lambda: worker.get("/ready")[0] == 200, "the worker is not ready again", NOT_READY_WITHIN_S)
        traffic.all_ended_once()

    try:
        # Missing already at the start. It cannot be looked up, so that the worker waits for it.
        tells("transactional id")
        rights.give_back(identity)
        traffic.send()
        goes_on()
        rights.take(identity)
        traffic.send()
        tells("transactional id")
        rights.give_back(identity)
        goes_on()
        taken = [of_topic(name, right) for name, right in rights_by_topic.items()]
        rights.take(*taken)
        traffic.send()
        tells(*rights_by_topic)
        rights.give_back(*taken)
        goes_on()
        joining = of_group(group, "READ")
        rights.take(joining)
        traffic.send()
        tells(f"consumer group {group}")
        rights.give_back(joining)
        goes_on()
        assert worker.terminate() == 0
    finally:
        worker.kill()
        client.close()


def _names(worker: WorkerProcess, texts: tuple[str, ...]) -> bool:
    assert worker.running, "the worker has ended"
    status, body = worker.get("/ready")
    return status == 503 and all(text in body for text in texts)


def test_a_dispatcher_waits_while_its_rights_are_gone(
    apache_site: Site, guarded: tuple[KafkaCluster, str], topics: Topics, tmp_path: Path
) -> None:
    """Requests wait in their topics, and go on once each; the worker's report that may not be written is told too."""
    cluster, address = guarded
    work = replace(topics, input="work")
    create_topics(cluster.bootstrap_servers, topics, partitions=2)
    create_topics(cluster.bootstrap_servers, work, partitions=2)
    site = replace(apache_site, topics=topics, broker=Broker(cluster.bootstrap_servers, {}, lambda _: None))
    rights = Rights.at(cluster.bootstrap_servers)
    group = f"dispatch-{topics.prefix}"
    client = Client(site)
    traffic = Traffic(client)
    described = site.worker("d", DISPATCH_GROUP_ID=group, KAFKA_BOOTSTRAP_SERVERS=address, **USER)
    dispatcher = WorkerProcess("d", described.environment, described.log, ("-m", "worker", "dispatch"))
    worker = stand_in(site, "two", tmp_path, INPUT="work", KAFKA_BOOTSTRAP_SERVERS=address, **USER)

    def goes_on() -> None:
        for process in (worker, dispatcher):
            until(lambda process=process: process.get("/ready")[0] == 200, "not ready again", NOT_READY_WITHIN_S)  # type: ignore[misc]
        traffic.all_ended_once()

    with worker, dispatcher:
        traffic.send()
        goes_on()
        rights_by_topic = {work.urgent: "WRITE", work.workers: "READ", topics.high: "READ"}
        taken = [of_topic(name, right) for name, right in rights_by_topic.items()]
        reports = of_topic(work.workers, "WRITE")
        rights.take(*taken, reports)
        traffic.send()
        until(
            lambda: _names(dispatcher, tuple(rights_by_topic)),
            "the dispatcher's rights are not named",
            NOT_READY_WITHIN_S,
        )
        until(lambda: _names(worker, (work.workers,)), "the worker's right is not named", NOT_READY_WITHIN_S)
        rights.give_back(*taken, reports)
        goes_on()
        joining = of_group(group, "READ")
        rights.take(joining)
        traffic.send()
        until(lambda: _names(dispatcher, (f"consumer group {group}",)), "the group is not named", NOT_READY_WITHIN_S)
        rights.give_back(joining)
        goes_on()
        assert [worker.terminate(), dispatcher.terminate()] == [0, 0]
    client.close()
