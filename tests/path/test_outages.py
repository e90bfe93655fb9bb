"""S3 or Kafka become unavailable under a running worker: jobs wait, none fails, and each result is published once."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devtools.local.kafka import KafkaCluster
from devtools.local.seaweedfs import SeaweedFS
from tests.harness import Broker, Client, Site, WorkerProcess
from tests.path.conftest import PARTITIONS
from tests.path.test_contract import metric
from worker.events.types import GenerationCompleted
from worker.topic_admin import create_topics

JOBS = 12


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[SeaweedFS]:
    """A store that may be stopped."""
    with SeaweedFS(tmp_path / "s3", "pictures") as store:
        yield store


@pytest.fixture
def outage_site(apache_site: Site, own_store: SeaweedFS) -> Site:
    return replace(apache_site, store=own_store)


def until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def all_completed_once(client: Client, jobs: list[str]) -> None:
    client.wait_for(lambda _: all(client.of(job) for job in jobs))
    client.settle(1)
    assert [type(result.event) for result in client.results] == [GenerationCompleted] * len(jobs)


def test_jobs_wait_while_s3_is_down(outage_site: Site) -> None:
    client = Client(outage_site)
    with outage_site.worker("one", BUFFER_PER_PARTITION="2") as worker:
        jobs = [client.request(num_inference_steps=40).job_id for _ in range(JOBS)]
        until(lambda: metric(worker, "sdxl_worker_steps_total") > 0, "no step was run")
        outage_site.store.stop()
        until(lambda: worker.get("/ready")[0] == 503, "readiness did not fall")
        assert "S3" in worker.get("/ready")[1]
        until(lambda: metric(worker, "sdxl_worker_paused_partitions") > 0, "no partition was paused")
        assert worker.get("/health")[0] == 200, "liveness must not depend on S3"
        assert not [result for result in client.results if result.topic == outage_site.topics.failed]
        outage_site.store.start()
        all_completed_once(client, jobs)
        until(lambda: worker.get("/ready")[0] == 200, "readiness did not come back")
        until(lambda: metric(worker, "sdxl_worker_paused_partitions") == 0, "partitions stayed paused")
        assert worker.terminate() == 0
    client.close()


def test_jobs_wait_while_s3_hangs_longer_than_its_timeout(outage_site: Site) -> None:
    client = Client(outage_site)
    with outage_site.worker("one") as worker:
        client.one(client.request().job_id)
        client.results.clear()
        outage_site.store.suspend()
        jobs = [client.request().job_id for _ in range(3)]
        client.settle(30)
        assert not client.results
        assert re.search(r'"partitions": \d+', worker.get("/health")[1])
        outage_site.store.resume()
        all_completed_once(client, jobs)
        assert worker.terminate() == 0
    client.close()


def test_finished_pictures_wait_while_kafka_is_down(apache_site: Site, tmp_path: Path) -> None:
    with KafkaCluster(1, tmp_path / "kafka") as cluster:
        create_topics(cluster.bootstrap_servers, apache_site.topics, PARTITIONS)
        site = replace(apache_site, broker=Broker(cluster.bootstrap_servers, {}, lambda _: None))
        client = Client(site)
        with site.worker("one", SLOTS="4") as worker:  # no picture is begun while Kafka is down
            jobs = [client.request(num_inference_steps=60, width=128, height=128).job_id for _ in range(4)]
            until(lambda: metric(worker, "sdxl_worker_steps_total") > 5, "no step was run")
            cluster.kill(1)
            stored = 'sdxl_worker_uploads_total{result="stored"}'
            until(lambda: metric(worker, stored) == len(jobs), "the pictures were not finished without Kafka")
            assert not client.results
            cluster.start_broker(1)
            all_completed_once(client, jobs)
            assert worker.terminate() == 0
        client.close()


def test_a_second_signal_ends_at_once_and_loses_nothing(apache_site: Site) -> None:
    client = Client(apache_site)
    with apache_site.worker("hasty", DRAIN_TIMEOUT_S="300") as worker:
        job = client.request(num_inference_steps=300, width=128, height=128).job_id
        until(lambda: metric(worker, "sdxl_worker_steps_total") > 0, "no step was run")
        worker.signal_twice()
        assert worker.wait(20) != 0
    assert not client.results
    with apache_site.worker("heir") as heir:
        all_completed_once(client, [job])
        assert heir.terminate() == 0
    client.close()


def test_secrets_appear_in_no_log_and_no_event(apache_site: Site) -> None:
    secret = apache_site.store.environment["AWS_SECRET_ACCESS_KEY"]
    client = Client(apache_site)
    with apache_site.worker("one", LOG_LEVEL="debug") as worker:
        results = [client.one(client.request(num_inference_steps=steps).job_id) for steps in (0, 1)]
        pages = [worker.get(path)[1] for path in ("/health", "/ready", "/metrics")]
        assert worker.terminate() == 0
    assert_absent(secret, worker, [repr(result) for result in results] + pages)
    client.close()


def assert_absent(secret: str, worker: WorkerProcess, texts: list[str]) -> None:
    for text in [worker.log.read_text(), *texts]:
        assert secret not in text
        assert "a lighthouse at dusk" not in worker.log.read_text(), "prompts are not logged"
