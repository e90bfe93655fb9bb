"""Ends of partitions that lie above the last record, and records that expire before they are read."""

from __future__ import annotations

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests import scrape
from tests.harness import Client, Site, WorkerProcess, small_request
from tests.path.conftest import PARTITIONS
from tests.path.test_outages import all_completed_once, until
from worker.events.headers import request_headers
from worker.events.types import timestamp


class Log:
    """The request topics of a site, their ends, and what the group has committed."""

    def __init__(self, site: Site) -> None:
        servers = site.broker.bootstrap_servers
        self._consumer = Consumer({"bootstrap.servers": servers, "group.id": f"group-{site.topics.prefix}"})
        self._places = [TopicPartition(topic, n) for topic in site.topics.requests for n in range(PARTITIONS)]
        self.admin = AdminClient({"bootstrap.servers": servers})

    def ends(self) -> list[int]:
        return [self._consumer.get_watermark_offsets(place, timeout=10)[1] for place in self._places]

    def committed(self) -> list[int]:
        return [place.offset for place in self._consumer.committed(self._places, timeout=10)]

    def expire(self) -> int:
        """Delete all records, as retention does; returns the number of their offsets that are not committed."""
        ends, committed = self.ends(), self.committed()
        up_to = [TopicPartition(p.topic, p.partition, end) for p, end in zip(self._places, ends, strict=True)]
        for future in self.admin.delete_records(up_to).values():
            future.result(30)
        return sum(ends) - sum(committed)

    def close(self) -> None:
        self._consumer.close()


def metric(worker: WorkerProcess, selector: str) -> float:
    """The sum of the samples whose names and labels match."""
    return scrape.value(worker.get("/metrics")[1], selector) or 0.0


def send_in_transaction(client: Client, count: int) -> list[str]:
    """Requests of a transactional upstream, whose markers stand behind them."""
    topic = client.site.topics.normal
    producer = Producer(
        {"bootstrap.servers": client.site.broker.bootstrap_servers, "transactional.id": f"upstream-{topic}"}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    requests = [small_request() for _ in range(count)]
    for request in requests:
        value, framing = client.codec.encode(request, topic=topic)
        headers = request_headers(request, source="/tests", now=timestamp(0))
        producer.produce(topic, value, request.job_id, headers=[*headers, *framing])
    producer.commit_transaction(30)
    return [request.job_id for request in requests]


def test_offsets_are_committed_to_the_end_and_what_expired_unread_is_counted(apache_site: Site) -> None:
    client, log = Client(apache_site), Log(apache_site)
    with apache_site.worker("one") as worker:
        until(lambda: log.committed() == [0] * len(log.ends()), "a partition without records has no offset")
        jobs = send_in_transaction(client, 2 * PARTITIONS)
        all_completed_once(client, jobs)
        until(lambda: log.committed() == log.ends(), "the transaction's markers are not passed")
        until(lambda: metric(worker, "kafka_consumergroup_lag") == 0, "there is nothing left, and lag")
        assert worker.terminate() == 0
    for _ in range(PARTITIONS):
        client.request("normal")
    unread = log.expire()
    assert unread == PARTITIONS
    with apache_site.worker("one") as worker:
        until(lambda: log.committed() == log.ends(), "the expired records are not passed")
        until(lambda: metric(worker, "kafka_consumergroup_lag") == 0, "all has expired, and there is lag")
        assert metric(worker, 'sdxl_worker_lost_offsets_total{cause="retention"}') == unread
        all_completed_once(client, [*jobs, client.request("normal").job_id])
        assert worker.terminate() == 0
    log.close()
    client.close()
