"""How many records a second one dispatcher passes on to workers that take whatever comes (`sinks`).

The requests of all lanes are there before the dispatcher starts. `copier` then passes on as many of its own, with as
many in a transaction: what Kafka and this machine allow at that moment.
"""

from __future__ import annotations

import os
import random
import re
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devtools.bench.fleet.hops import reader
from devtools.bench.fleet.simulate import SHARES
from devtools.bench.fleet.sinks import Sinks
from devtools.bench.fleet.site import Site
from devtools.bench.fleet.traffic import Sender, TrafficError
from worker.job import Lane

TIMEOUT_S = 180.0
# What is read before the clock starts: the first transactions of a producer are slow.
WARM_UP = 0.1
_TRANSACTIONS = re.compile(
    r'^sdxl_worker_transaction_seconds_count\{.*result="committed".*\} ([0-9.e+]+)$', re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class _Passed:
    """Records a second, and in a second of the processor time of the process that passed them on."""

    per_s: int
    per_cpu_s: int


def pace(site: Site, plain: Site, records: int, seed: int = 0) -> dict[str, float]:
    """Measure both; `plain` is the copier's.

    Raises:
        TrafficError: they were not passed on.
    """
    batch = 1

    def dispatcher() -> int:
        return site.dispatcher("dispatcher").pid

    def look() -> None:
        nonlocal batch
        with urllib.request.urlopen(f"http://127.0.0.1:{site.ports['dispatcher']}/metrics", timeout=10) as page:
            counts = _TRANSACTIONS.findall(page.read().decode())
        batch = max(1, round(records / max(1.0, sum(map(float, counts)))))

    dispatched = _measure(site, records, seed, dispatcher, look)
    site.end("dispatcher")
    copied = _measure(plain, records, seed, lambda: plain.copier(batch).pid)
    return {
        "dispatch_records_per_s": dispatched.per_s,
        "dispatch_records_per_cpu_s": dispatched.per_cpu_s,
        "dispatch_records_per_transaction": batch,
        "copy_records_per_s": copied.per_s,
        "copy_records_per_cpu_s": copied.per_cpu_s,
        "dispatch_share_of_copy": round(dispatched.per_s / copied.per_s, 3),
    }


def _measure(
    site: Site, records: int, seed: int, start: Callable[[], int], at_end: Callable[[], None] = lambda: None
) -> _Passed:
    """Measure the process that `start` starts and returns the id of, after the first tenth of the records."""
    sender, draw = Sender(site.servers, site.topics), random.Random(seed)
    for number, lane in enumerate(draw.choices(tuple(Lane), SHARES, k=records)):
        sender.send(f"pace-{number}", lane)
    sender.flush()
    consumer = reader(site.servers, site.work.requests, site.partitions, from_the_start=True)
    sinks, pid = Sinks(site), start()
    came, first, began, cpu_s = 0, 0, 0.0, 0.0
    deadline = time.monotonic() + TIMEOUT_S
    while came < records:
        now = time.monotonic()
        if now > deadline:
            raise TrafficError(f"{records - came} of {records} records were not passed on in {TIMEOUT_S:.0f} s")
        sinks.report(now)
        for message in consumer.consume(500, 0.02):
            if message.error() is None:
                came += 1
                sinks.took(str(message.topic()), message.partition() or 0, message.offset() or 0)
        if not began and came >= WARM_UP * records:
            began, first, cpu_s = time.monotonic(), came, _cpu_s(pid)
    took_s, took_cpu_s = time.monotonic() - began, max(0.01, _cpu_s(pid) - cpu_s)
    at_end()
    consumer.close()
    return _Passed(round((came - first) / took_s), round((came - first) / took_cpu_s))


def _cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
