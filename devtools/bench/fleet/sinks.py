"""Workers that take whatever comes: they only report, with room for all, so that dispatchers are what is measured."""

from __future__ import annotations

import time
from collections import defaultdict

from confluent_kafka import Producer

from devtools.bench.fleet.site import Site
from worker.events.headers import report_headers
from worker.events.single_object import SingleObjectCodec
from worker.events.types import WorkerReport, WorkPartition, timestamp

WORKERS = 8
ROOM = 1_000_000
REPORT_EVERY_S = 0.2

Headers = list[tuple[str, str | bytes | None]]


class Sinks:
    """Eight of them share the work topics' partitions."""

    def __init__(self, site: Site) -> None:
        self._topic = site.topics.workers
        self._producer = Producer({"bootstrap.servers": site.servers, "linger.ms": 0, "log_level": 2})
        self._codec = SingleObjectCodec()
        # By worker and partition of it, the offset that is read next.
        self._positions: dict[int, dict[tuple[str, int], int]] = defaultdict(dict)
        for topic in site.work.requests:
            for number in range(site.partitions):
                self._positions[number % WORKERS][topic, number] = 0
        self._sequence = 0
        self._due = 0.0

    def took(self, topic: str, partition: int, offset: int) -> None:
        """A record was read."""
        self._positions[partition % WORKERS][topic, partition] = offset + 1

    def report(self, now: float) -> None:
        """Report, if it is time; `now` in the monotonic clock's seconds."""
        if now < self._due:
            return
        self._due, self._sequence = now + REPORT_EVERY_S, self._sequence + 1
        for worker, positions in self._positions.items():
            self._send(worker, positions)
        self._producer.poll(0)

    def _send(self, worker: int, positions: dict[tuple[str, int], int]) -> None:
        report = WorkerReport(
            worker_id=f"sink-{worker}",
            session_id="bench",
            sequence=self._sequence,
            rows=ROOM,
            picture_seconds=1.0,
            partitions=tuple(
                WorkPartition(topic=topic, partition=number, position=position)
                for (topic, number), position in positions.items()
            ),
            reported_at=timestamp(time.time()),
        )
        value, framing = self._codec.encode(report, topic=self._topic)
        headers: Headers = [*report_headers(report, source="/bench"), *framing]
        self._producer.produce(self._topic, key=report.worker_id.encode(), value=value, headers=headers)
