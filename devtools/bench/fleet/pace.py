"""How many records a second one dispatcher passes on, to a worker that takes whatever comes.

The requests are there before the dispatcher starts, and the worker is none: it only reports, with room for all.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from confluent_kafka import Producer

from devtools.bench.fleet.hops import reader
from devtools.bench.fleet.site import Site
from devtools.bench.fleet.traffic import Sender, TrafficError
from worker.events.headers import report_headers
from worker.events.single_object import SingleObjectCodec
from worker.events.types import WorkerReport, WorkPartition, timestamp
from worker.job import Lane

Headers = list[tuple[str, str | bytes | None]]

ROOM = 1_000_000
REPORT_EVERY_S = 0.05
TIMEOUT_S = 180.0
# What is read before the clock starts: the first transactions of a producer are slow.
WARM_UP = 0.1


def pace(site: Site, records: int) -> dict[str, int]:
    """Records a second, and in a second of the dispatcher's processor time, after the first tenth.

    Raises:
        TrafficError: they were not passed on.
    """
    sender = Sender(site.servers, site.topics)
    for number in range(records):
        sender.send(f"pace-{number}", Lane.NORMAL)
    sender.flush()
    consumer = reader(site.servers, site.work.requests, site.partitions, from_the_start=True)
    places = {(topic, number): 0 for topic in site.work.requests for number in range(site.partitions)}
    producer, codec, sequence = (
        Producer({"bootstrap.servers": site.servers, "linger.ms": 0, "log_level": 2}),
        SingleObjectCodec(),
        0,
    )
    pid = site.dispatcher("dispatcher").pid
    came, first, began, cpu_s = 0, 0, 0.0, 0.0
    deadline, report_at = time.monotonic() + TIMEOUT_S, 0.0
    while came < records:
        now = time.monotonic()
        if now > deadline:
            raise TrafficError(f"{records - came} of {records} records were not passed on in {TIMEOUT_S:.0f} s")
        if now >= report_at:
            report_at, sequence = now + REPORT_EVERY_S, sequence + 1
            report = WorkerReport(
                worker_id="sink",
                session_id="bench",
                sequence=sequence,
                rows=ROOM,
                picture_seconds=1.0,
                partitions=tuple(
                    WorkPartition(topic=topic, partition=number, position=position)
                    for (topic, number), position in places.items()
                ),
                reported_at=timestamp(time.time()),
            )
            value, framing = codec.encode(report, topic=site.topics.workers)
            headers: Headers = [*report_headers(report, source="/bench"), *framing]
            producer.produce(site.topics.workers, key=b"sink", value=value, headers=headers)
            producer.poll(0)
        for message in consumer.consume(500, 0.02):
            if message.error() is None:
                came += 1
                places[str(message.topic()), message.partition() or 0] = (message.offset() or 0) + 1
        if not began and came >= WARM_UP * records:
            began, first, cpu_s = time.monotonic(), came, _cpu_s(pid)
    took_s, took_cpu_s = time.monotonic() - began, max(0.01, _cpu_s(pid) - cpu_s)
    consumer.close()
    return {
        "dispatch_records_per_s": round((came - first) / took_s),
        "dispatch_records_per_cpu_s": round((came - first) / took_cpu_s),
    }


def _cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
