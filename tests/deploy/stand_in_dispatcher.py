"""A dispatcher's page over HTTP, made by its own code: its policy passes on made-up requests to workers that report."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from prometheus_client import generate_latest

from tests.deploy.stand_in_cluster import page
from worker.dispatch import gauges
from worker.dispatch.fleet import SILENT_S, Fleet
from worker.dispatch.policy import Backlog, Request
from worker.events.types import LaneWork, Priority, WorkerReport, WorkPartition
from worker.job import Lane
from worker.telemetry import metrics
from worker.telemetry.exposition import Exposition
from worker.topics import Topics

WORKERS = 4
SHARES = (0.1, 0.3, 0.6)


@contextmanager
def dispatching(group: str, prefix: str) -> Iterator[int]:
    """The port on which /metrics has the page; each look at it is a round of the dispatcher."""
    exposition = Exposition("dispatch", group, prefix)
    dispatcher = _Dispatcher(prefix)

    def look() -> bytes:
        dispatcher.turn(time.monotonic())
        return generate_latest(exposition)

    with page(look) as port:
        yield port


class _Dispatcher:
    def __init__(self, prefix: str) -> None:
        self._work = Topics(prefix, "work")
        self._fleet = Fleet(dict(zip(Lane, self._work.requests, strict=True)))
        self._backlog = Backlog()
        self._random = random.Random(1)
        self._sequence = itertools.count(1)
        self._keys = itertools.count()
        self._partitions: dict[str, int] = {}
        self._waiting: list[Request] = []
        self._gone = False

    def turn(self, now_s: float) -> None:
        """Workers report, one of them drains, one has gone silent; requests come, and are passed on."""
        if not self._gone:
            # Before the first look, so that it is silent from then on.
            self._hear("silent", 0, now_s - SILENT_S)
            self._gone = True
        for number in range(WORKERS):
            self._hear(f"worker-{number}", self._random.choice((0, 1, 1)), now_s)
        self._hear("draining", 1, now_s, accepts=False)
        for _ in range(2 * WORKERS + 1):
            [lane] = self._random.choices(tuple(Lane), SHARES)
            self._waiting.append(Request(next(self._keys), lane, now_s - self._random.random()))
            self._backlog.add(self._waiting[-1])
        for choice in self._backlog.choose(self._fleet.workers(now_s), now_s):
            wait_s = now_s - choice.request.arrived_s
            metrics.DISPATCH_WAIT.labels(choice.request.lane.label).observe(wait_s)
        # Nothing is kept for ever.
        for request in self._waiting[:-WORKERS]:
            self._backlog.remove(request)
        self._waiting = self._waiting[-WORKERS:]
        metrics.TRANSACTION.labels("committed").observe(self._random.uniform(0.01, 0.03))
        metrics.READY.set(1)
        gauges.show(self._backlog, self._fleet, now_s)

    def _hear(self, name: str, normal: int, now_s: float, *, accepts: bool = True) -> None:
        places = tuple(
            WorkPartition(topic=topic, partition=hash(name) % 96, position=0) for topic in self._work.requests
        )
        report = WorkerReport(
            worker_id=name,
            session_id="stand-in",
            sequence=next(self._sequence),
            accepts=accepts,
            picture_seconds=3.0,
            partitions=places,
            work=(LaneWork(priority=Priority.NORMAL, requests=normal, seconds=3.0 * normal),),
            reported_at=datetime.now(UTC),
        )
        self._fleet.hear(report, now_s)
