"""The thread that reads the status and request topics, without a group, and tells the event loop what they say."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog
from confluent_kafka import KafkaException

from worker.client.connection import Connection, Record
from worker.client.errors import CommandError
from worker.client.reader import Reader
from worker.errors import RegistryUnavailable, UndecodableError
from worker.events.types import Event

_log = structlog.get_logger()

POLL_S = 0.2
PAUSE_S = 2.0
# Read again at the start, so that a job that no worker has taken yet is known to be queued.
MAX_RECENT_REQUESTS = 1_000
# Of a dispatcher, which commits requests once it has passed them on.
DISPATCH_GROUP = "sdxl-dispatch"
# Records that are handed to the event loop at once, so that a long topic does not keep it from answering.
BATCH = 200


class Source(Protocol):
    """What the thread reads; tests have one of their own."""

    def poll(self, timeout_s: float) -> Record | None: ...
    @property
    def ended_count(self) -> int: ...
    @property
    def partition_count(self) -> int: ...
    @property
    def unanswered(self) -> str | None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """A record with what it says: an event, or None for a tombstone."""

    record: Record
    event: Event | None


OnSeen = Callable[[list[Seen]], None]


class TopicReader:
    """Reads until stopped; whatever fails is tried again.

    Attributes:
        trouble: why what is known may be out of date, as one sentence; None while it is not.
        loaded: whether the topics were read to their ends once.

    Args:
        open_source: positions a new source at the beginning of the status topic. It may raise CommandError.
        on_seen: called on this thread with the records in the order in which they were read.
    """

    def __init__(
        self, connection: Connection, on_seen: OnSeen, open_source: Callable[[], Source] | None = None
    ) -> None:
        self._connection = connection
        self._on_seen = on_seen
        self._open = open_source or self._open_reader
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gateway-reader", daemon=True)
        self.trouble: str | None = "the status topic has not been read to its end yet"
        self.loaded = False

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ask it to end, and wait for a while."""
        self._stop.set()
        self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """False once the thread has ended by an error that nobody expected; only a new process helps."""
        return self._stop.is_set() or self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                source = self._open()
                try:
                    self._follow(source)
                finally:
                    source.close()
            except (CommandError, KafkaException) as error:
                reason = str(error.args[0].str() if isinstance(error, KafkaException) else error)
                self._tell("the topics cannot be read now; the log tells why", reason)
                self._stop.wait(PAUSE_S)

    def _follow(self, source: Source) -> None:
        to_end = False
        batch: list[Seen] = []
        while not self._stop.is_set():
            record = source.poll(0 if batch else POLL_S)
            if record is not None:
                seen = self._decoded(record)
                batch += [] if seen is None else [seen]
            if batch and (record is None or len(batch) >= BATCH):
                self._on_seen(batch)
                batch = []
            if not to_end and source.ended_count >= source.partition_count and not batch:
                to_end = self.loaded = True
                _log.info("topics_read", partitions=source.partition_count)
            if to_end and source.unanswered is None:
                self.trouble = None
            elif to_end:
                self._tell("Kafka does not answer; the log tells why", source.unanswered)

    def _tell(self, trouble: str, reason: str | None) -> None:
        """Log the reason once; strangers may ask for the trouble, so no address stands in it."""
        if self.trouble != trouble:
            _log.warning("topics_not_read", reason=reason)
        self.trouble = trouble

    def _decoded(self, record: Record) -> Seen | None:
        """What a record says; None where it is nothing that can be read, which is nobody's fault here."""
        if not record.value:
            return Seen(record, None)
        while not self._stop.is_set():
            try:
                return Seen(record, self._connection.decode(record))
            except UndecodableError as error:
                _log.debug("record_skipped", topic=record.topic, offset=record.offset, reason=str(error))
                return None
            except RegistryUnavailable as error:
                _log.warning("registry_unavailable", reason=str(error))
                self._stop.wait(PAUSE_S)
        return None

    def _open_reader(self) -> Source:
        topics = self._connection.topics
        reader = Reader(self._connection, [topics.status, *topics.requests], follows=True)
        try:
            # A request that was committed has ended, though its status may be forgotten: it must not look queued again.
            groups = (self._connection.settings.kafka_group_id, DISPATCH_GROUP)
            reader.recent(dict.fromkeys(topics.requests, MAX_RECENT_REQUESTS), groups)
        except BaseException:
            reader.close()
            raise
        return reader
