"""Several workers on real Kafka: shared partitions, a killed worker, a drain, kcat, and failing starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest

from tests import scrape
from tests.harness import Client, Site, WorkerProcess
from worker.events.types import GenerationCompleted

KCAT = shutil.which("kcat")


def completed_by(client: Client, job_ids: list[str]) -> set[str]:
    """The workers that completed these jobs, each exactly once."""
    client.wait_for(lambda _: all(client.of(job_id) for job_id in job_ids))
    for job_id in job_ids:
        assert [type(result.event) for result in client.of(job_id)] == [GenerationCompleted]
    return {client.of(job_id)[0].event.worker_id for job_id in job_ids}


def long_request(client: Client, job_id: str) -> str:
    """A request that takes seconds, so that something can happen in the middle."""
    return client.request(num_inference_steps=80, width=128, height=128, job_id=job_id).job_id


def test_two_workers_share_the_partitions(apache_site: Site) -> None:
    client = Client(apache_site)
    with apache_site.worker("one") as one, apache_site.worker("two") as two:
        wait_for_partitions(one, 6)
        wait_for_partitions(two, 6)
        jobs = [client.request(("urgent", "high", "normal")[n % 3]).job_id for n in range(24)]
        assert completed_by(client, jobs) == {"one", "two"}
        assert one.terminate() == 0
        assert two.terminate() == 0
    client.settle(1)
    assert len(client.results) == 24
    client.close()


def test_a_worker_killed_in_mid_picture_loses_nothing(apache_site: Site) -> None:
    client = Client(apache_site)
    with apache_site.worker("victim", SLOTS="4") as victim:  # all three are being drawn when it dies
        jobs = [long_request(client, f"long-{n}") for n in range(3)]
        deadline = time.monotonic() + 60
        while not scrape.value(victim.get("/metrics")[1], "sdxl_worker_steps_total"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not client.results
        victim.kill()
        with apache_site.worker("heir") as heir:
            assert completed_by(client, jobs) == {"heir"}
            assert {client.of(job)[0].headers["attempt"] for job in jobs} == {"2"}
            assert heir.terminate() == 0
    client.settle(1)
    assert len(client.results) == len(jobs)
    client.close()


def test_sigterm_hands_back_what_cannot_be_finished(apache_site: Site) -> None:
    client = Client(apache_site)
    with apache_site.worker("leaver", DRAIN_TIMEOUT_S="0.2") as leaver:
        jobs = [long_request(client, f"hb-{n}") for n in range(8)]
        deadline = time.monotonic() + 60
        while not scrape.value(leaver.get("/metrics")[1], "sdxl_worker_steps_total"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert leaver.terminate() == 0
    assert not client.results
    with apache_site.worker("heir") as heir:
        assert completed_by(client, jobs) == {"heir"}
        # Handing back takes the start back: it is no attempt.
        assert {client.of(job)[0].headers["attempt"] for job in jobs} == {"1"}
        assert heir.terminate() == 0
    client.close()


@pytest.mark.skipif(KCAT is None, reason="kcat is not installed (Debian's package kcat)")
def test_kcat_shows_key_and_headers_of_a_failed_event(apache_site: Site) -> None:
    client = Client(apache_site)
    with apache_site.worker("one"):
        client.request("urgent", job_id="kcat-1", num_inference_steps=0)
        client.one("kcat-1")
    assert KCAT is not None
    answer = subprocess.run(
        [
            *(KCAT, "-b", apache_site.broker.bootstrap_servers, "-C", "-e", "-q"),
            *("-t", apache_site.topics.failed, "-f", "%k | %h\n"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    line = next(line for line in answer.stdout.splitlines() if line.startswith("kcat-1 | "))
    for header in ("error-code=invalid_request", "status=failed", "worker-id=one", "priority=urgent", "job-id=kcat-1"):
        assert header in line
    client.close()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"AWS_S3_BUCKET": "no-such-bucket"}, "no-such-bucket"),
        ({"SDXL_MODEL_ID": os.devnull + "/model"}, "model"),
        ({"SLOTS": "0"}, "SLOTS"),
        ({"DEVICE": "cuda:7"}, "cuda"),
    ],
)
def test_a_start_that_cannot_work_ends_with_one_message(
    apache_site: Site, settings: dict[str, str], named: str
) -> None:
    worker = apache_site.worker("wrong", **settings).start()
    assert worker.wait(90) == 2
    last = worker.log.read_text().strip().splitlines()[-1]
    assert named in last
    assert "Traceback" not in worker.log.read_text()
    assert "wrong" not in last.replace("wrong credentials", "")


def test_credentials_that_s3_refuses_are_waited_out_as_they_may_be_rotated(apache_site: Site) -> None:
    worker = apache_site.worker("refused", AWS_SECRET_ACCESS_KEY="wrong").start()
    deadline = time.monotonic() + 90
    while "waiting for S3" not in worker.get("/ready")[1]:
        assert worker.running
        assert time.monotonic() < deadline, worker.log.read_text()
        time.sleep(0.1)
    assert worker.get("/ready")[0] == 503
    assert worker.get("/health")[0] == 200
    assert worker.terminate() == 0
    assert "Traceback" not in worker.log.read_text()


def wait_for_partitions(worker: WorkerProcess, count: int) -> None:
    """Until the group has settled."""
    deadline = time.monotonic() + 60
    while f'"partitions": {count}' not in worker.get("/health")[1]:
        assert time.monotonic() < deadline, worker.get("/health")
        time.sleep(0.1)
