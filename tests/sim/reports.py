"""The topic of the workers' reports, and its clients: no transactions, and reports may be lost or come late."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

from confluent_kafka import OFFSET_END, KafkaError, KafkaException, TopicPartition

from tests.sim.broker import Entry, Headers
from tests.sim.clients import Record
from tests.sim.faults import Port
from tests.sim.kernel import Kernel
from worker.dispatch.reporter import PRODUCER_CONFIG

_TIMEOUT_S = float(str(PRODUCER_CONFIG["message.timeout.ms"])) / 1000
_SLOWEST_S = 0.3


@dataclass(slots=True)
class ReportLog:
    """One partition.

    Args:
        lost: the share of the reports that get lost while there is trouble.
    """

    lost: float = 0.0
    entries: list[Entry] = field(default_factory=list)


class ReportProducer:
    """A worker's; a report is written a little later, and only while the worker runs."""

    def __init__(self, kernel: Kernel, log: ReportLog, port: Port) -> None:
        self._kernel, self._log, self._port = kernel, log, port

    def produce(
        self,
        topic: str,
        *,
        key: bytes,
        value: bytes,
        headers: Headers,
        on_delivery: Callable[[KafkaError | None, object], None],
    ) -> None:
        rng = self._kernel.rng
        is_lost = self._port.faults.active and rng.random() < self._log.lost
        entry = Entry(topic, 0, -1, key, value, headers, self._kernel.now)
        sent_at = self._kernel.now

        def write() -> None:
            process, now = self._port.process, self._kernel.now
            if not process.alive:
                return
            if process.stopped_until > now:
                self._kernel.at(process.stopped_until - now + rng.uniform(0, 0.1), write)
                return
            # After a stall it may be sent or given up.
            if is_lost or (now - sent_at > _TIMEOUT_S and rng.random() < 0.5):
                on_delivery(KafkaError(KafkaError._MSG_TIMED_OUT), None)
                return
            entry.offset, entry.at = len(self._log.entries), now
            self._log.entries.append(entry)
            on_delivery(None, Record(entry))

        self._kernel.at(rng.uniform(0, _SLOWEST_S), write)

    def poll(self, _timeout_s: float) -> int:
        return 0

    def flush(self, _timeout_s: float) -> int:
        return 0


class ReportConsumer:
    """A dispatcher's. Where the end is becomes clear a while after the assignment, in the background."""

    def __init__(self, kernel: Kernel, log: ReportLog, port: Port) -> None:
        self._kernel, self._log, self._port = kernel, log, port
        self._at: int | None = None
        self._end_found_at = float("inf")

    def list_topics(self, topic: str, timeout: float) -> SimpleNamespace:  # noqa: ARG002 - confluent-kafka's names
        if self._port.faults.active and self._kernel.rng.random() < 0.1:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return SimpleNamespace(topics={topic: SimpleNamespace(partitions={0: None}, error=None)})

    def assign(self, places: list[TopicPartition]) -> None:
        """From the end; what was fetched before is thrown away."""
        assert all(place.offset == OFFSET_END for place in places), "old reports would be taken for new ones"
        slowness_s = self._kernel.rng.uniform(0, _SLOWEST_S)
        self._at, self._end_found_at = None, self._kernel.now + slowness_s if places else float("inf")

    def poll(self, _timeout_s: float) -> Record | None:
        """What is next in the log, however old: the client does not know that its process stood still."""
        entries = self._log.entries
        if self._at is None:
            if self._kernel.now < self._end_found_at:
                return None
            self._at = bisect_left(entries, self._end_found_at, key=lambda entry: entry.at)
        if self._at >= len(entries):
            return None
        self._at += 1
        return Record(entries[self._at - 1])

    def close(self) -> None:
        """Nothing is held."""
