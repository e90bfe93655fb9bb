"""The end of a partition's log is lost, as in an unclean leader election: what comes after it is still done once."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devtools.local.kafka import KafkaCluster
from tests import scrape
from tests.conftest import require_java
from tests.harness import Broker, Client, Site
from tests.path.test_hostile import stand_in
from tests.path.test_outages import all_completed_once
from worker.topic_admin import create_topics

# More are sent after the loss than were lost: a reader that stays where it was would miss as many as were lost.
LOST, LATER = 5, 8
# `LOST_END_TIMES=10 pytest tests/path/test_lost_log_end.py` loses the end as often, with one broker.
TIMES = int(os.environ.get("LOST_END_TIMES", "1"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[KafkaCluster]:
    """A broker whose files may be changed."""
    require_java()
    with KafkaCluster(1, tmp_path / "kafka") as cluster:
        yield cluster


@pytest.fixture
def site(apache_site: Site, cluster: KafkaCluster) -> Site:
    create_topics(cluster.bootstrap_servers, apache_site.topics, partitions=1)
    return replace(apache_site, broker=Broker(cluster.bootstrap_servers, {}, lambda _: None))


class ShortenedLog:
    """The log of the normal lane's partition, as it was when this was made."""

    def __init__(self, cluster: KafkaCluster, site: Site, copy: Path) -> None:
        self._cluster, self._copy = cluster, copy
        [self._log] = (cluster.directory / "broker-1").rglob(f"{site.topics.normal}-0")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._log, copy)

    def come_back(self) -> None:
        """The broker has lost what was written since."""
        self._cluster.kill(1)
        shutil.rmtree(self._log)
        shutil.copytree(self._copy, self._log)
        self._cluster.start_broker(1)


def requests(client: Client, count: int) -> list[str]:
    return [client.request("normal").job_id for _ in range(count)]


def test_what_comes_after_an_end_that_was_lost_under_a_worker_is_done_once(
    site: Site, cluster: KafkaCluster, tmp_path: Path
) -> None:
    client = Client(site)
    with stand_in(site, "one", tmp_path) as worker:
        jobs = requests(client, LOST)
        all_completed_once(client, jobs)
        log = ShortenedLog(cluster, site, tmp_path / "shorter")
        jobs += requests(client, LOST)
        all_completed_once(client, jobs)
        log.come_back()
        jobs += requests(client, LATER)
        all_completed_once(client, jobs)
        assert '"event": "log_end_lost"' in worker.log.read_text()
        assert worker.terminate() == 0
    client.close()


@pytest.mark.parametrize(
    "meanwhile",
    [pytest.param(2, id="the new log is shorter than the committed offset"), pytest.param(LATER, id="and longer")],
)
def test_what_is_written_over_an_end_that_was_lost_while_no_worker_ran_is_done_once(
    site: Site, cluster: KafkaCluster, tmp_path: Path, meanwhile: int
) -> None:
    client = Client(site)
    jobs: list[str] = []
    for time in range(TIMES):
        with stand_in(site, f"before-{time}", tmp_path) as worker:
            jobs += requests(client, LOST)
            all_completed_once(client, jobs)
            log = ShortenedLog(cluster, site, tmp_path / "shorter")
            jobs += requests(client, LOST)
            all_completed_once(client, jobs)
            assert worker.terminate() == 0
        log.come_back()
        jobs += requests(client, meanwhile)
        with stand_in(site, f"after-{time}", tmp_path) as worker:
            # While the worker finds out: the log may pass the committed offset before it has.
            jobs += requests(client, LATER)
            all_completed_once(client, jobs)
            assert_counted(LOST, worker.log.read_text(), worker.get)
            assert worker.terminate() == 0
    client.close()


def assert_counted(lost: int, log: str, get: Callable[[str], tuple[int, str]]) -> None:
    assert [int(n) for n in re.findall(r'"offsets": (\d+), .*"event": "log_end_lost"', log)] == [lost], log
    assert scrape.value(get("/metrics")[1], 'sdxl_worker_lost_offsets_total{cause="lost_end"}') == lost
