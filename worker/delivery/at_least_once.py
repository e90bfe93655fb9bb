"""Results first, and their offsets after: for brokers without transactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from confluent_kafka import KafkaException, Producer

from worker.delivery.reports import DeliveryReports, collect_reports, produce
from worker.delivery.transport import (
    CALL_TIMEOUT_S,
    NOBODY,
    UNKNOWN_TOPIC_CONFIG,
    Encoded,
    Group,
    Membership,
    Offset,
    Refused,
    TryAgain,
)
from worker.telemetry import metrics

_log = structlog.get_logger()

IDEMPOTENT_CONFIG: dict[str, Any] = {"enable.idempotence": True, "acks": "all", "linger.ms": 0, **UNKNOWN_TOPIC_CONFIG}


class AtLeastOnce:
    """Records first, acknowledged by all replicas, then the offsets. A crash in between repeats records.

    Args:
        make_producer: a new idempotent producer; called again after a fatal error.
        group: whose offsets are committed after the records.
    """

    def __init__(self, make_producer: Callable[[], Producer], group: Group) -> None:
        self._make_producer = make_producer
        self._producer = make_producer()
        self._group = group

    def open(self) -> None:
        """There are no transactions."""

    def prepare(self, *, again: bool = False) -> None:
        """There is nothing to wait for."""

    def membership(self) -> Membership:
        return NOBODY

    def send(
        self,
        records: Sequence[Encoded],
        offsets: Sequence[Offset],
        membership: Membership = NOBODY,  # noqa: ARG002 - the consumers commit, and know who they are
        *,
        again: bool = False,  # noqa: ARG002
    ) -> Mapping[int, int]:
        reports = DeliveryReports()
        problem: Exception | None = None
        try:
            produce(self._producer, records, reports)
        except (KafkaException, BufferError) as error:
            problem = error
        try:
            unanswered = self._producer.flush(CALL_TIMEOUT_S)
        except KafkaException as error:
            problem, unanswered = error, 0
        if problem is not None and _is_fatal(problem):
            self._replace()
        if reports.refused:
            raise Refused("the brokers refused records", reports.refused)
        if problem is not None:
            raise TryAgain(f"produce: {problem}") from problem
        if unanswered or reports.unacknowledged:
            texts = {cause.text for cause in reports.unacknowledged.values()} or {"no answer"}
            raise TryAgain(f"not acknowledged: {'; '.join(sorted(texts))}", reports.unacknowledged)
        if offsets:
            self._commit(offsets)
        metrics.FLUSHES.labels("committed").inc()
        return reports.offsets

    def serve(self) -> None:
        collect_reports(self._producer)

    def close(self) -> None:
        """Nothing is left in the queue between two calls of `send`."""

    def _replace(self) -> None:
        """A producer that has failed for good (lost sequence numbers, for one) refuses whatever comes after."""
        self._producer.purge()
        collect_reports(self._producer)
        self._producer = self._make_producer()

    def _commit(self, offsets: Sequence[Offset]) -> None:
        try:
            self._group.commit([offset.to_kafka() for offset in offsets])
        except KafkaException as error:
            if error.args[0].retriable():
                raise TryAgain(f"commit: {error}") from error
            # The partition has moved on; its next owner repeats what is not committed.
            _log.warning("commit_refused", error=str(error))


def _is_fatal(error: Exception) -> bool:
    return isinstance(error, KafkaException) and bool(error.args[0].fatal())
