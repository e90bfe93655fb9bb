"""A worker process and its cluster: a wrong prefix ends it, an outage makes it unready and keeps it alive."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from confluent_kafka.admin import AdminClient

from devtools.local.kafka import KafkaCluster
from tests.harness import Broker, Site, WorkerProcess, log_lines
from tests.path.conftest import PARTITIONS
from tests.path.test_contract import metric
from tests.path.test_outages import until
from worker.topic_admin import create_topics
from worker.topics import Topics

NOT_STARTED = 2


def reasons(worker: WorkerProcess) -> list[str]:
    """What `/ready` says; empty when it says yes, and before anybody listens."""
    status, body = worker.get("/ready")
    return list(json.loads(body)["reasons"]) if status else []


def test_with_kip_848_a_mistyped_prefix_ends_the_start_in_one_line(apache_site: Site) -> None:
    wrong = replace(apache_site, topics=Topics(apache_site.topics.prefix.upper()))
    worker = wrong.worker("mistyped").start()
    assert worker.wait(90) == NOT_STARTED
    [line] = [line for line in worker.log.read_text().splitlines() if line.startswith("error:")]
    assert wrong.topics.prefix in line
    # The broker is shared, and at most three of the prefixes that it has are named.
    assert "the cluster has them with '" in line
    assert "Traceback" not in worker.log.read_text()


def test_readiness_follows_the_broker_and_the_topics_and_liveness_does_not(apache_site: Site, tmp_path: Path) -> None:
    with KafkaCluster(1, tmp_path / "kafka") as cluster, ExitStack() as stack:
        servers = cluster.bootstrap_servers
        create_topics(servers, apache_site.topics, PARTITIONS)
        cluster.stop_broker(1)
        site = replace(apache_site, broker=Broker(servers, {}, lambda _: None))

        # There is no broker at the start: that is an outage, and no mistake.
        worker = site.worker("one").start()
        stack.push(worker)
        until(lambda: '"kafka_unreachable"' in worker.log.read_text(), "the worker did not say what it waits for")
        [told] = [line for line in log_lines(worker.log) if line["event"] == "kafka_unreachable"]
        assert servers in str(told)
        assert "refused" in str(told)
        assert worker.get("/health")[0] == 200, "liveness must not depend on Kafka"
        assert reasons(worker) == ["starting"]
        cluster.start_broker(1)
        worker.wait_ready()
        assert metric(worker, "sdxl_worker_kafka_up") == 1

        # A stopped broker keeps its connections open and answers nothing.
        cluster.suspend(1)
        until(lambda: bool(reasons(worker)), "readiness did not fall")
        assert re.match(r"Kafka has not answered for \d+ s", reasons(worker)[0])
        until(lambda: metric(worker, "sdxl_worker_kafka_up") == 0, "the gauge did not fall")
        assert worker.get("/health")[0] == 200, "liveness must not depend on Kafka"
        cluster.resume(1)
        worker.wait_ready()

        # A topic is deleted under the worker: the group takes its partitions away, at times without any error.
        delete(servers, site.topics.high)
        until(lambda: any(site.topics.high in reason for reason in reasons(worker)), "the topic was not missed")
        assert metric(worker, "sdxl_worker_cluster_problems") == 1
        assert worker.get("/health")[0] == 200, "liveness must not depend on topics"
        create_topics(servers, site.topics, PARTITIONS)
        worker.wait_ready()
        assert worker.terminate() == 0


def delete(servers: str, topic: str) -> None:
    # Kept until the answer is there: a client that is let go takes its questions with it.
    admin = AdminClient({"bootstrap.servers": servers})
    # A broker that was stopped must first register with its controller again.
    admin.delete_topics([topic], request_timeout=90.0)[topic].result(100)
