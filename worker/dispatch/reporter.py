"""A worker's reports to the dispatchers: on every change, at most twenty a second, and every second."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from worker.errors import RegistryUnavailable
from worker.events.codec import EventCodec
from worker.events.headers import report_headers
from worker.events.types import LaneWork, Priority, WorkerReport, WorkPartition, timestamp
from worker.intake.ledger import Ledger
from worker.threads import Threads
from worker.work_in_hand import WorkInHand

_log = structlog.get_logger()

LEAST_PAUSE_S = 0.05
MOST_PAUSE_S = 1.0
# An old report is of no use, and reports outside transactions may be lost.
PRODUCER_CONFIG = {"acks": 1, "linger.ms": 0, "message.timeout.ms": 3_000}


class Reporter:
    """A loop of its own thread.

    Args:
        accepts: whether the worker takes work now.
        on_error: called with the error of every report that was not written.
        rows: the pictures that it draws at a time.
        models: names of what it has loaded.
    """

    def __init__(
        self,
        producer: Producer,
        topic: str,
        codec: EventCodec,
        ledger: Ledger,
        work: WorkInHand,
        threads: Threads,
        *,
        worker_id: str,
        rows: int,
        models: Iterable[str],
        accepts: Callable[[], bool],
        on_error: Callable[[KafkaError], None] = lambda _error: None,
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._codec = codec
        self._ledger = ledger
        self._work = work
        self._threads = threads
        self._accepts = accepts
        self._on_error = on_error
        self._told_error: int | None = None
        self._last = WorkerReport(
            worker_id=worker_id,
            session_id=uuid.uuid4().hex,
            sequence=0,
            rows=rows,
            picture_seconds=0.0,
            models=tuple(models),
            reported_at=timestamp(0.0),
        )
        self._told_at = float("-inf")

    def tick(self) -> bool:
        """Report if there is something new, or if it is time."""
        self._producer.poll(0)
        now = self._threads.monotonic()
        if now - self._told_at < LEAST_PAUSE_S:
            return False
        report = self._compose(accepts=self._accepts())
        if report == self._last and now - self._told_at < MOST_PAUSE_S:
            return False
        self._tell(report, now)
        return True

    def wait(self, timeout_s: float) -> None:
        """Sleep until the next look."""
        self._threads.sleep(min(timeout_s, LEAST_PAUSE_S))

    def close(self) -> None:
        """Say that nothing more is to be sent."""
        self._tell(replace(self._last, accepts=False), self._threads.monotonic())
        self._producer.flush(MOST_PAUSE_S)

    def _compose(self, *, accepts: bool) -> WorkerReport:
        """What there is to say, with the number and the time of the last report."""
        with self._ledger.lock:
            partitions = tuple(
                WorkPartition(topic=key[0], partition=key[1], epoch=epoch, position=position)
                for key, epoch, position in self._ledger.positions()
            )
        work = tuple(
            LaneWork(priority=Priority(lane.label), requests=requests, seconds=round(seconds, 3))
            for lane, (requests, seconds) in self._work.by_lane().items()
        )
        return replace(
            self._last,
            accepts=accepts,
            picture_seconds=round(self._work.picture_s, 3),
            partitions=partitions,
            work=work,
            loras=(self._work.loras,) if self._work.loras else (),
        )

    def _tell(self, report: WorkerReport, now: float) -> None:
        self._told_at = now
        self._last = replace(report, sequence=self._last.sequence + 1, reported_at=timestamp(self._threads.now()))
        # A report that cannot be sent is missed, and the dispatchers send less.
        with contextlib.suppress(KafkaException, BufferError, RegistryUnavailable):
            value, framing = self._codec.encode(self._last, topic=self._topic)
            headers = report_headers(self._last, source=f"/sdxl-worker/{self._last.worker_id}")
            self._producer.produce(
                self._topic,
                key=self._last.worker_id.encode(),
                value=value,
                headers=[*headers, *framing],
                on_delivery=self._on_delivery,
            )

    def _on_delivery(self, error: KafkaError | None, _message: Message) -> None:
        code = None if error is None else error.code()
        if error is not None:
            self._on_error(error)
            if code != self._told_error:  # twenty reports a second would fill the log
                _log.warning("reports_not_written", topic=self._topic, error=error.str())
        self._told_error = code
