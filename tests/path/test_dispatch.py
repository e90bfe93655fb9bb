"""Requests through dispatchers to workers, on real Kafka: once each, unchanged, whatever dies in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from tests import scrape
from tests.harness import Client, Site, WorkerProcess
from tests.path.conftest import PARTITIONS
from tests.path.test_outages import until
from worker.events.types import GenerationCompleted, GenerationFailed
from worker.topic_admin import create_topics
from worker.topics import Topics

PICTURE_S = "0.1"


@pytest.fixture
def work(apache_site: Site) -> Topics:
    topics = replace(apache_site.topics, input="work")
    create_topics(apache_site.broker.bootstrap_servers, topics, PARTITIONS)
    return topics


def stand_in_worker(site: Site, name: str, **others: str) -> WorkerProcess:
    settings = {
        "INPUT": "work",
        "CHAOS_ENGINE": "stand-in",
        "CHAOS_PICTURE_S": PICTURE_S,
        "CHAOS_WORK_LOG": str(site.logs / f"{name}.work"),
        "CHAOS_TRACE": str(site.logs / f"{name}.trace"),
        **others,
    }
    described = site.worker(name, **settings)
    return WorkerProcess(name, described.environment, described.log, ("-m", "tests.chaos.worker_main"))


def dispatcher(site: Site, name: str) -> WorkerProcess:
    described = site.worker(name, DISPATCH_GROUP_ID=f"dispatch-{site.topics.prefix}")
    return WorkerProcess(name, described.environment, described.log, ("-m", "worker", "dispatch"))


@pytest.fixture
def client(apache_site: Site) -> Iterator[Client]:
    client = Client(apache_site)
    yield client
    client.close()


def records(site: Site, topics: tuple[str, ...]) -> list[Message]:
    """All committed records of the topics."""
    consumer = Consumer(
        {
            "bootstrap.servers": site.broker.bootstrap_servers,
            "group.id": "look",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    places = [TopicPartition(name, number, 0) for name in topics for number in range(PARTITIONS)]
    consumer.assign(places)
    found, ends = [], 0
    while ends < len(places):
        message = consumer.poll(10)
        assert message is not None
        if message.error() is None:
            found.append(message)
        else:
            ends += 1
    consumer.close()
    return found


def test_every_request_is_passed_on_once_and_as_it_is(apache_site: Site, work: Topics, client: Client) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(dispatcher(apache_site, "dispatch-1"))
        for name in ("one", "two"):
            stack.enter_context(stand_in_worker(apache_site, name))
        jobs = [client.request(lane).job_id for _ in range(8) for lane in ("normal", "high", "urgent")]
        client.send(apache_site.topics.normal, b"garbage", b"no Avro", [("mine", b"\xff")], 1_700_000_000_000)
        refused = client.request("high", width=63).job_id
        client.wait_for(lambda _: all(client.of(job) for job in (*jobs, refused, "garbage")))
        client.settle(1)
        # One more dispatcher takes a part, and the first is killed in the middle of its work.
        second = stack.enter_context(dispatcher(apache_site, "dispatch-2"))
        more = [client.request(lane).job_id for _ in range(20) for lane in ("normal", "high", "urgent")]
        first.kill()
        client.wait_for(lambda _: all(client.of(job) for job in more))
        client.settle(1)
        assert second.terminate() == 0
    kinds = Counter(type(result.event) for result in client.results)
    assert kinds == {GenerationCompleted: len(jobs) + len(more), GenerationFailed: 1, type(None): 1}
    assert len({result.key for result in client.results}) == len(client.results)
    asked = {message.key(): message for message in records(apache_site, apache_site.topics.requests)}
    passed = records(apache_site, work.requests)
    assert {message.key() for message in passed} == asked.keys() - {b"garbage"}
    assert len(passed) == len(asked) - 1
    for message in passed:
        original = asked[message.key()]
        headers = dict(message.headers() or [])
        assert int(headers.pop("dispatched-at") or b"") >= original.timestamp()[1]
        assert (message.value(), message.timestamp()) == (original.value(), original.timestamp())
        assert headers == dict(original.headers() or [])
        assert str(message.topic()).rsplit(".", 1)[1] == str(original.topic()).rsplit(".", 1)[1]


def test_a_fleet_with_a_past_goes_on_where_its_workers_have_stopped(
    apache_site: Site, work: Topics, client: Client
) -> None:
    with stand_in_worker(apache_site, "before", INPUT="requests") as before:
        done = [client.request(lane).job_id for _ in range(4) for lane in ("normal", "high", "urgent")]
        client.wait_for(lambda _: all(client.of(job) for job in done))
        with dispatcher(apache_site, "early") as early:
            until(lambda: "workers still read" in early.log.read_text(), "it does not wait for the worker to end")
            assert before.terminate() == 0
            more = [client.request(lane).job_id for _ in range(4) for lane in ("normal", "high", "urgent")]
            with stand_in_worker(apache_site, "after"):
                client.wait_for(lambda _: all(client.of(job) for job in more))
                client.settle(1)
    assert len(client.results) == len(done) + len(more)
    passed = Counter(message.key() for message in records(apache_site, work.requests))
    assert passed == Counter(job.encode() for job in more)


def test_without_workers_requests_wait_and_a_late_worker_gets_them(
    apache_site: Site, work: Topics, client: Client
) -> None:
    del work
    with dispatcher(apache_site, "alone") as alone:
        jobs = [client.request().job_id for _ in range(6)]
        waiting = 'sdxl_worker_dispatch_waiting_requests{priority="normal"}'
        until(lambda: scrape.value(alone.get("/metrics")[1], waiting) == 6, "the requests were not read")
        reporting = 'sdxl_worker_dispatch_workers{state="reporting"}'
        assert scrape.value(alone.get("/metrics")[1], reporting) == 0
        with stand_in_worker(apache_site, "late") as late:
            until(lambda: scrape.value(alone.get("/metrics")[1], reporting) == 1, "the worker was not heard of")
            client.wait_for(lambda _: all(client.of(job) for job in jobs))
            client.settle(1)
            assert len(client.results) == len(jobs)
            assert late.terminate() == 0
        assert alone.terminate() == 0
