"""Clients of the simulated broker and bucket in the place of a process's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from tests.sim.broker import Broker
from tests.sim.clients import FakeAdmin, FakeConsumer, FakeProducer, FakeReader, NoCancellations
from tests.sim.faults import Port
from tests.sim.group import Group
from tests.sim.kernel import Crashed, Kernel
from tests.sim.reports import ReportConsumer, ReportLog, ReportProducer
from tests.sim.store import Bucket, FakeStore
from worker import kafka_config
from worker.cluster.check import Problem
from worker.cluster.contact import Contact
from worker.delivery import transport
from worker.delivery.exactly_once import TRANSACTION_CONFIG, ExactlyOnce
from worker.delivery.upload import PictureStore
from worker.job import Lane
from worker.settings import Settings
from worker.topics import Topics


class SoundCluster:
    """A cluster that always answers and has nothing wrong with it."""

    servers = "simulated"

    def __init__(self, clock: Callable[[], float]) -> None:
        self.contact = Contact(clock)

    def check(self, _timeout_s: float) -> list[Problem]:
        return []


class SimConnections:
    """Clients of the simulated broker and bucket; `members` are the group members by topic.

    Args:
        reports: where workers report to dispatchers; None where there are none.
        older: one member for all topics, as workers had before they had one for each.
    """

    def __init__(
        self,
        kernel: Kernel,
        broker: Broker,
        bucket: Bucket,
        group: Group,
        port: Port,
        settings: Settings,
        draining: Callable[[], bool],
        crash: Callable[[], None],
        *,
        reports: ReportLog | None = None,
        older: bool = False,
    ) -> None:
        self._crash = crash
        self._kernel, self._broker, self._group, self._port = kernel, broker, group, port
        self._settings = settings
        self._topics = Topics(settings.kafka_topic_prefix, settings.input)
        self._draining = draining
        self._reports = reports
        self.store = cast("PictureStore", FakeStore(bucket, port))
        self.cluster = SoundCluster(kernel.clock)
        self._consumer = self._new_member() if older else None
        self.members: dict[str, FakeConsumer] = {}

    def _new_member(self) -> FakeConsumer:
        return FakeConsumer(self._kernel, self._broker, self._group, self._port, self._wait_for_records)

    def member(self, lane: Lane) -> Any:
        if self._consumer is not None and len(self.members) == len(Lane):
            # An older worker ended when its member gave up.
            self._crash()
            raise Crashed(self._settings.worker_id)
        consumer = self.members[self._topics.requests[lane]] = self._consumer or self._new_member()
        return consumer

    def offsets_reader(self) -> Any:
        return FakeReader(self._kernel, self._broker, self._group, self._port, self._wait_for_records)

    def cancellations_reader(self) -> Any:
        return NoCancellations()

    def bounds_admin(self) -> Any:
        return FakeAdmin(self._kernel, self._broker, self._port)

    def report_producer(self) -> Any:
        assert self._reports is not None, "no dispatcher is simulated"
        return ReportProducer(self._kernel, self._reports, self._port)

    def transport(self, group: transport.Group) -> transport.Transport:
        config = TRANSACTION_CONFIG | {"transactional.id": kafka_config.transactional_id(self._settings)}
        return ExactlyOnce(lambda: cast("Any", FakeProducer(self._broker, self._port, config)), group)

    def _wait_for_records(self, seconds: float) -> None:
        # The poll loop sleeps between its ticks, which costs no switch of real threads; only the drain polls in a row.
        if self._draining():
            self._kernel.wait(self._port.process, seconds * self._kernel.rng.uniform(1, 5))


class DispatcherConnections(SimConnections):
    """A dispatcher's reader is that of the reports."""

    def cancellations_reader(self) -> Any:
        assert self._reports is not None
        return ReportConsumer(self._kernel, self._reports, self._port)
