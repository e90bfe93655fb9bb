"""Reads what workers report, from now on. A report that may be old is left out: the next one is a second away.

Every partition is read from its end. The events of a partition's end would not do to tell old reports from new ones:
there is none while somebody always reports, as in a large fleet.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.errors import RegistryUnavailable, UndecodableError
from worker.events.codec import EventCodec
from worker.events.types import WorkerReport
from worker.intake.records import read_record
from worker.threads import Threads

_log = structlog.get_logger()

# How often the topic is looked at again: for partitions that come, and while it is not there.
LIST_AGAIN_S = 30.0
LIST_SOON_S = 2.0
# A reader that stood still for so long would hear what was said in the meantime, and could not tell when.
STOOD_STILL_S = 1.0
_METADATA_TIMEOUT_S = 5.0


class ReportReader:
    """A loop of its own thread.

    Args:
        consumer: of no group that matters.
        hear: gets each report that was written just now.
        on_error: called with every error of the topic or of reading it.
    """

    def __init__(
        self,
        consumer: Consumer,
        topic: str,
        codec: EventCodec,
        hear: Callable[[WorkerReport], None],
        threads: Threads,
        on_error: Callable[[KafkaError], None] = lambda _error: None,
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self._codec = codec
        self._hear = hear
        self._threads = threads
        self._on_error = on_error
        self._assigned: set[int] = set()
        self._list_at = 0.0
        self._polled_at = 0.0

    def tick(self) -> bool:
        """Read at most one report; False when there was none."""
        return self._read(0.0)

    def wait(self, timeout_s: float) -> None:
        """Wait for the next report, at most `timeout_s`."""
        self._read(timeout_s)

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def _read(self, timeout_s: float) -> bool:
        now = self._threads.monotonic()
        if now >= self._list_at:
            self._list()
        message = self._consumer.poll(timeout_s)
        before, self._polled_at = self._polled_at, self._threads.monotonic()
        if self._polled_at - before > timeout_s + STOOD_STILL_S:
            self._assign()
            return False
        if message is None:
            return False
        error = message.error()
        if error is None:
            self._take(message)
            return True
        if error.code() != KafkaError._PARTITION_EOF:
            _log.warning("reports_not_read", topic=self._topic, error=error.str())
            self._on_error(error)
            self._list_at = min(self._list_at, now + LIST_SOON_S)
        return False

    def _take(self, message: Message) -> None:
        record = read_record(message, self._threads.now())
        if record.value is None:
            return
        try:
            report = self._codec.decode(record.value, topic=self._topic, headers=record.headers, expected=WorkerReport)
        except (UndecodableError, RegistryUnavailable) as error:
            _log.warning("report_unreadable", error=str(error), partition=record.partition, offset=record.offset)
            return
        self._hear(report)

    def _list(self) -> None:
        """Read the partitions that there are, new ones from their end."""
        self._list_at = self._threads.monotonic() + LIST_AGAIN_S
        try:
            found = self._consumer.list_topics(self._topic, timeout=_METADATA_TIMEOUT_S).topics[self._topic]
        except KafkaException as error:
            _log.warning("reports_not_read", topic=self._topic, error=error.args[0].str())
            self._list_at = self._threads.monotonic() + LIST_SOON_S
            return
        if found.error is not None:
            self._on_error(found.error)
        if set(found.partitions) != self._assigned:
            self._assigned = set(found.partitions)
            self._assign()
        if not self._assigned:
            self._list_at = self._threads.monotonic() + LIST_SOON_S

    def _assign(self) -> None:
        """Go on from the ends of the partitions; what was fetched before is thrown away."""
        self._consumer.assign([TopicPartition(self._topic, number, OFFSET_END) for number in self._assigned])
        self._polled_at = self._threads.monotonic()
