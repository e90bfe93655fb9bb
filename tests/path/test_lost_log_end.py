"""The end of a partition's log is lost, as in an unclean leader election: what comes after it is still done once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devtools.local.kafka import KafkaCluster
from tests.conftest import require_java
from tests.harness import Broker, Client, Site
from tests.path.test_hostile import stand_in
from tests.path.test_outages import all_completed_once
from worker.topics import create_topics

# More are sent after the loss than were lost: a reader that stays where it was would miss as many as were lost.
LOST, LATER = 5, 8


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[KafkaCluster]:
    """A broker whose files may be changed."""
    require_java()
    with KafkaCluster(1, tmp_path / "kafka") as cluster:
        yield cluster


def test_what_comes_after_an_end_that_was_lost_under_a_worker_is_done_once(
    apache_site: Site, cluster: KafkaCluster, tmp_path: Path
) -> None:
    create_topics(cluster.bootstrap_servers, apache_site.topics, partitions=1)
    site = replace(apache_site, broker=Broker(cluster.bootstrap_servers, {}, lambda _: None))
    client = Client(site)
    with stand_in(site, "one", tmp_path) as worker:
        jobs = [client.request("normal").job_id for _ in range(LOST)]
        all_completed_once(client, jobs)
        [log] = (cluster.directory / "broker-1").rglob(f"{site.topics.normal}-0")
        shutil.copytree(log, tmp_path / "shorter")
        jobs += [client.request("normal").job_id for _ in range(LOST)]
        all_completed_once(client, jobs)
        cluster.kill(1)
        shutil.rmtree(log)
        shutil.copytree(tmp_path / "shorter", log)
        cluster.start_broker(1)
        jobs += [client.request("normal").job_id for _ in range(LATER)]
        all_completed_once(client, jobs)
        assert '"event": "log_end_lost"' in worker.log.read_text()
        assert worker.terminate() == 0
    client.close()
