"""Cancellations: every worker reads all of them, since any may hold the job, now or after a rebalance."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
from cachetools import TTLCache
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition
from confluent_kafka import Message as Record

from worker.errors import RegistryUnavailable, UndecodableError
from worker.events.codec import EventCodec
from worker.events.types import GenerationCancellation
from worker.job import Job, Origin
from worker.telemetry import logs

_log = structlog.get_logger()

# The topic's retention; beyond it no cancellation could be read again either.
_REMEMBERED_S = 24 * 60 * 60
_REMEMBERED_IDS = 100_000
_CATCH_UP_S = 10.0
_METADATA_TIMEOUT_S = 10.0


class CancelledJobs:
    """Which job ids were cancelled lately, when and why. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: TTLCache[str, tuple[float, str]] = TTLCache(_REMEMBERED_IDS, _REMEMBERED_S)

    def add(self, job_id: str, written_at: float, reason: str) -> None:
        """A cancellation was read that was written at `written_at`, in epoch seconds."""
        with self._lock:
            self._known[job_id] = (written_at, reason)

    def reason(self, job: Job) -> str | None:
        """Why the job is cancelled; None when it is not, or was requested again after that."""
        with self._lock:
            found = self._known.get(job.job_id)
        return found[1] if found is not None and found[0] >= job.requested_at else None


class CancellationReader:
    """Reads the topic on a thread of its own.

    Args:
        consumer: of no group that matters: partitions are assigned, nothing is committed.
        jobs: gets every cancellation that is read.
        cancel: is called with the job id and the reason of each.
    """

    def __init__(
        self,
        consumer: Consumer,
        topic: str,
        codec: EventCodec,
        jobs: CancelledJobs,
        cancel: Callable[[str, str], None],
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self._codec = codec
        self._jobs = jobs
        self._cancel = cancel
        self._assigned = False

    def open(self, clock: Callable[[], float]) -> None:
        """Read what there is, so that no job starts whose cancellation was sent before; gives up after a while.

        A broker that is away just now keeps nobody from starting: the topic is read once it is back.
        """
        deadline = clock() + _CATCH_UP_S
        try:
            for place in self._assign():
                _, end = self._consumer.get_watermark_offsets(place, timeout=_METADATA_TIMEOUT_S)
                while end > 0 and self._position(place) < end and clock() < deadline:
                    self._read(0.1)
        except KafkaException as error:
            _log.warning("cancellations_late", error=str(error))

    def tick(self) -> bool:
        """Read at most one cancellation; False when there was none."""
        return self._read(0.0)

    def wait(self, timeout_s: float) -> None:
        """Wait for the next cancellation, at most `timeout_s`, and read it."""
        self._read(timeout_s)

    def _read(self, timeout_s: float) -> bool:
        if not self._assigned:
            try:
                self._assign()
            except KafkaException as error:
                _log.warning("cancellations_late", error=str(error))
        record = self._consumer.poll(timeout_s)
        if record is None or record.error() is not None:
            return False
        value = record.value()
        try:
            event = self._codec.decode(
                value.encode() if isinstance(value, str) else value,
                topic=self._topic,
                headers=None,
                expected=GenerationCancellation,
            )
        except (UndecodableError, RegistryUnavailable) as error:
            _log.warning("cancellation_unreadable", **self._about(record), error=str(error))
            return True
        reason = f"cancelled by {event.requested_by or 'request'}" + (f": {event.reason}" if event.reason else "")
        reason = " ".join(reason.split())[:300]
        self._jobs.add(event.job_id, record.timestamp()[1] / 1000, reason)
        self._cancel(event.job_id, reason)
        return True

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def _assign(self) -> list[TopicPartition]:
        """Start at the beginning of the topic. Raises KafkaException."""
        metadata = self._consumer.list_topics(self._topic, timeout=_METADATA_TIMEOUT_S).topics[self._topic]
        places = [TopicPartition(self._topic, partition, OFFSET_BEGINNING) for partition in metadata.partitions]
        if places:
            self._consumer.assign(places)
            self._assigned = True
        return places

    def _about(self, record: Record) -> logs.About:
        origin = Origin(self._topic, record.partition() or 0, record.offset() or 0, epoch=0)
        return logs.about_record(origin, record.key(), list(dict(record.headers() or ()).items()))

    def _position(self, place: TopicPartition) -> int:
        # Markers of a producer's transactions have no record, so only what poll has passed counts.
        return max(self._consumer.position([place])[0].offset, 0)
