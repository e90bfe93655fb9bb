"""Everything outside the process that a worker talks to, as one object: Kafka clients and the picture store."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from worker import kafka_config
from worker.cluster.checker import ClusterChecker
from worker.cluster.contact import STATISTICS_INTERVAL_MS
from worker.cluster.watch import Cluster
from worker.delivery.at_least_once import IDEMPOTENT_CONFIG, AtLeastOnce
from worker.delivery.exactly_once import TRANSACTION_CONFIG, ExactlyOnce
from worker.delivery.producer import TransactionalProducer
from worker.delivery.transport import Group, Transport
from worker.delivery.upload import PictureStore
from worker.dispatch.reporter import PRODUCER_CONFIG
from worker.job import Lane
from worker.settings import Settings
from worker.startup import FenceWatch


class Connections(Protocol):
    """What `app.build` makes a worker's clients with; the simulation has its own."""

    @property
    def store(self) -> PictureStore: ...

    @property
    def cluster(self) -> Cluster: ...

    def member(self, lane: Lane) -> Consumer:
        """The consumer that joins the group for a lane."""

    def offsets_reader(self) -> Consumer:
        """A client that reads the group's committed offsets and never joins it."""

    def cancellations_reader(self) -> Consumer:
        """A client of the cancellations topic, outside the group, which reports the ends of partitions."""

    def bounds_admin(self) -> AdminClient:
        """A client that asks where partitions begin and end."""

    def report_producer(self) -> Producer:
        """What a worker reports to dispatchers with."""

    def transport(self, group: Group) -> Transport:
        """How results and the group's offsets become durable."""


@dataclass(frozen=True, slots=True)
class RealConnections:
    """confluent-kafka's clients by the settings, and an S3 store."""

    settings: Settings
    store: PictureStore
    cluster: ClusterChecker

    def member(self, lane: Lane) -> Consumer:
        statistics: dict[str, Any] = {
            "statistics.interval.ms": STATISTICS_INTERVAL_MS,
            "stats_cb": self.cluster.contact.on_statistics,
        }
        return Consumer(statistics | kafka_config.consumer_config(self.settings, lane))

    def offsets_reader(self) -> Consumer:
        return Consumer(kafka_config.offsets_reader_config(self.settings))

    def cancellations_reader(self) -> Consumer:
        return Consumer(kafka_config.reader_config(self.settings) | {"enable.partition.eof": True})

    def bounds_admin(self) -> AdminClient:
        return AdminClient(kafka_config.bounds_config(self.settings))

    def report_producer(self) -> Producer:
        # Without transactions, so without the properties of somebody who wants all of them to have some.
        config = kafka_config.producer_config(self.settings, PRODUCER_CONFIG)
        return Producer({name: value for name, value in config.items() if name != "transactional.id"})

    def transport(self, group: Group) -> Transport:
        settings = self.settings
        if settings.delivery == "at-least-once":
            idempotent = kafka_config.producer_config(settings, IDEMPOTENT_CONFIG)
            return AtLeastOnce(lambda: Producer(idempotent), group)
        identity = {"transactional.id": kafka_config.transactional_id(settings)}
        config = kafka_config.producer_config(settings, TRANSACTION_CONFIG | identity)
        watch = FenceWatch(settings.worker_id)
        return ExactlyOnce(
            lambda: TransactionalProducer(config), group, lambda error: watch.note(error, time.monotonic())
        )
