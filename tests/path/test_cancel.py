"""Cancellations on real Kafka: before a job starts, and while it is running."""

from __future__ import annotations

from tests.harness import Client, Site
from tests.path.test_workers import wait_for_partitions
from worker.errors import ErrorCode
from worker.events.types import GenerationCancellation, GenerationFailed


def cancel(site: Site, client: Client, job_id: str) -> None:
    event = GenerationCancellation(job_id=job_id, reason="changed my mind", requested_by="tests")
    topic = site.topics.cancellations
    client.send(topic, job_id.encode(), client.codec.encode(event, topic=topic)[0])


def failure(client: Client, job_id: str) -> GenerationFailed:
    event = client.one(job_id).event
    assert isinstance(event, GenerationFailed)
    return event


def test_a_job_is_cancelled_in_mid_picture_and_before_its_start(apache_site: Site) -> None:
    client = Client(apache_site)
    client.request(job_id="never")
    cancel(apache_site, client, "never")
    with apache_site.worker("one") as worker:
        wait_for_partitions(worker, 12)
        event = failure(client, "never")
        assert event.error_code is ErrorCode.CANCELLED
        assert event.error_message == "cancelled by tests: changed my mind"
        client.request(job_id="midway", num_inference_steps=500, width=256, height=256)
        client.request("urgent", job_id="neighbour")
        client.one("neighbour")
        assert not client.of("midway")
        cancel(apache_site, client, "midway")
        assert failure(client, "midway").error_code is ErrorCode.CANCELLED
        assert client.one("midway").headers["status"] == "cancelled"
        # Asked for again after the cancellation, it is wanted again.
        client.request(job_id="midway", num_inference_steps=2)
        client.wait_for(lambda _: len(client.of("midway")) == 2)
        assert client.of("midway")[1].topic == apache_site.topics.completed
        assert worker.terminate() == 0
    client.close()
