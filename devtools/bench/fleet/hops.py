"""How long a request takes through a dispatcher: from its record's time to where a worker can read it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, TopicPartition

from devtools.bench.fleet.site import Site

POLL_S = 0.1


def reader(servers: str, topics: Sequence[str], partitions: int, *, from_the_start: bool) -> Consumer:
    """A consumer of all partitions of the topics, of no group, that sees what is committed."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "bench",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 50,
            "log_level": 2,
        }
    )
    offset = OFFSET_BEGINNING if from_the_start else OFFSET_END
    consumer.assign([TopicPartition(topic, number, offset) for topic in topics for number in range(partitions)])
    return consumer


class HopWatch:
    """Reads the work topics as a worker would, from now on, until `stop`."""

    def __init__(self, site: Site) -> None:
        self._consumer = reader(site.servers, site.work.requests, site.partitions, from_the_start=False)
        self._hops_s: list[float] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> list[float]:
        """The times of what was read, in seconds, ascending."""
        self._stopping.set()
        self._thread.join()
        self._consumer.close()
        return sorted(self._hops_s)

    def _watch(self) -> None:
        while not self._stopping.is_set():
            message = self._consumer.poll(POLL_S)
            if message is not None and message.error() is None:
                # A record keeps the time at which it was written as a request.
                self._hops_s.append(time.time() - message.timestamp()[1] / 1000)
