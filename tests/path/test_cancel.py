"""Cancellations on real Kafka: before a job starts, and while it is running."""

from __future__ import annotations

import json
import uuid
from typing import Any

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.harness import Client, Site, WorkerProcess, log_lines
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


def test_a_missing_topic_is_reported_and_read_once_it_is_there(apache_site: Site) -> None:
    client, topic = Client(apache_site), apache_site.topics.cancellations
    # The store is the session's, and an id belongs to the request that had it first.
    meanwhile, midway = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("meanwhile", "midway"))
    admin = AdminClient({"bootstrap.servers": apache_site.broker.bootstrap_servers})
    with apache_site.worker("one") as worker:
        wait_for_partitions(worker, 12)
        # Later than the start, which a missing topic would have ended.
        admin.delete_topics([topic])[topic].result(30)
        client.wait_for(lambda _: health(worker)["cancellations"] == f"the topic {topic} does not exist")
        client.request("urgent", job_id=meanwhile)
        client.one(meanwhile)
        admin.create_topics([NewTopic(topic, 1)])[topic].result(30)
        client.wait_for(lambda _: health(worker)["cancellations"] == "read")
        client.request(job_id=midway, num_inference_steps=500, width=256, height=256)
        cancel(apache_site, client, midway)
        assert failure(client, midway).error_code is ErrorCode.CANCELLED
        told = [line["event"] for line in log_lines(worker.log) if line["event"].startswith("cancellations_")]
        # Once for each change; a topic that was just created may be refused for another moment.
        assert told == ["cancellations_not_read", "cancellations_are_read"] * (len(told) // 2)
        assert told
        assert worker.terminate() == 0
    client.close()


def health(worker: WorkerProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(worker.get("/health")[1])
    return found
