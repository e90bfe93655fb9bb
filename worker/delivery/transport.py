"""How a flush becomes durable: in one transaction with the offsets, or results first and offsets after.

Both raise `TryAgain` when nothing, or for at-least-once perhaps something, became durable and the same flush has to
be sent anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from worker import metrics
from worker.errors import WorkerError

_log = structlog.get_logger()

# Longer than the broker takes to abort a dead predecessor's transaction.
INIT_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 30.0
# A transaction holds up its partitions' next owner until it times out (librdkafka#3265), and a message that is not
# delivered within the transaction is of no use. With the default of 100 ms, the broker's short
# CONCURRENT_TRANSACTIONS after each commit would cost that much per flush (facts, Kafka 20).
TRANSACTION_CONFIG: dict[str, Any] = {
    "transaction.timeout.ms": 15_000,
    "message.timeout.ms": 12_000,
    "retry.backoff.ms": 5,
    "linger.ms": 0,
}
IDEMPOTENT_CONFIG: dict[str, Any] = {"enable.idempotence": True, "acks": "all", "linger.ms": 0}


class TryAgain(WorkerError):
    """The flush has to be sent anew, after a pause."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A record ready for the producer."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, str | bytes | None]]


@dataclass(frozen=True, slots=True)
class Offset:
    """A committed offset with its metadata, as it is to be or as it is."""

    topic: str
    partition: int
    offset: int
    metadata: str

    def to_kafka(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition, self.offset, self.metadata)


class Group(Protocol):
    """The consumer group, as seen by the publisher (`intake.errands.Errands`)."""

    membership: Any

    def commit(self, offsets: Sequence[TopicPartition]) -> None: ...
    def committed(self, partitions: Sequence[TopicPartition], timeout_s: float) -> list[TopicPartition]: ...


class Transport(Protocol):
    """Makes records and offsets durable together."""

    def send(self, records: Sequence[Encoded], offsets: Sequence[Offset]) -> None:
        """Return when all of it is durable.

        Raises:
            TryAgain: it is not; call again with what is then still owned of it, and with nothing new.
        """
        ...

    def close(self) -> None: ...


class ExactlyOnce:
    """One Kafka transaction per call.

    Args:
        make_producer: a new transactional producer with a stable `transactional.id`; called again after a fatal error.
        group: whose offsets are committed with the records.
    """

    def __init__(self, make_producer: Callable[[], Producer], group: Group) -> None:
        self._make_producer = make_producer
        self._group = group
        self._producer: Producer | None = None
        # Offsets of a commit whose answer was lost: only the broker knows whether it took place.
        self._in_doubt: Sequence[Offset] | None = None

    def open(self) -> None:
        """Fence off a predecessor and wait until its transaction is ended. Raises KafkaException, TryAgain."""
        producer = self._make_producer()
        try:
            producer.init_transactions(INIT_TIMEOUT_S)
        except KafkaException as error:
            raise TryAgain(f"init_transactions: {error}") from error
        self._producer = producer

    def send(self, records: Sequence[Encoded], offsets: Sequence[Offset]) -> None:
        if self._producer is None:
            self.open()
        if self._in_doubt is not None and self._took_place(self._in_doubt, offsets):
            return
        self._in_doubt = None
        assert self._producer is not None
        try:
            self._transact(self._producer, records, offsets)
        except KafkaException as error:
            self._recover(error.args[0])
            raise TryAgain(f"transaction: {error}") from error
        except BufferError as error:
            self._abort()
            raise TryAgain("the producer's queue is full") from error
        metrics.FLUSHES.labels("committed").inc()

    def close(self) -> None:
        """Let go of the producer; nothing is open between two calls of `send`."""
        self._producer = None

    def _transact(self, producer: Producer, records: Sequence[Encoded], offsets: Sequence[Offset]) -> None:
        producer.begin_transaction()
        for record in records:
            producer.produce(record.topic, key=record.key, value=record.value, headers=record.headers)
        if offsets:
            group, positions = self._group.membership, [offset.to_kafka() for offset in offsets]
            _patiently(lambda: producer.send_offsets_to_transaction(positions, group, CALL_TIMEOUT_S))
        self._in_doubt = offsets
        _patiently(lambda: producer.commit_transaction(CALL_TIMEOUT_S))
        self._in_doubt = None

    def _recover(self, error: KafkaError) -> None:
        """Leave the producer able to begin anew: abort where the error allows it, else replace it."""
        metrics.FLUSHES.labels("aborted").inc()
        _log.warning("transaction_failed", error=error.str(), code=error.name(), fatal=error.fatal())
        if error.txn_requires_abort():
            # An abortable error on commit says that it did not take place.
            self._in_doubt = None
            self._abort()
        else:
            self._producer = None

    def _abort(self) -> None:
        assert self._producer is not None
        producer = self._producer
        try:
            _patiently(lambda: producer.abort_transaction(CALL_TIMEOUT_S))
        except KafkaException as error:
            _log.warning("abort_failed", error=str(error))
            self._producer = None

    def _took_place(self, doubtful: Sequence[Offset], wanted: Sequence[Offset]) -> bool:
        """Whether the commit in doubt did take place, judged by the partitions that are still ours.

        Offsets and records are of one transaction, so the committed offsets tell about the records, and every
        flush with an outcome changes them. A new producer's init_transactions has ended the old transaction, so
        the answer is final.
        """
        ours = {(offset.topic, offset.partition) for offset in wanted}
        asked = [offset for offset in doubtful if (offset.topic, offset.partition) in ours]
        if not asked:
            return False
        committed = _committed(self._group, asked)
        return all(committed.get((o.topic, o.partition)) == (o.offset, o.metadata) for o in asked)


class AtLeastOnce:
    """Records first, acknowledged by all replicas, then the offsets. A crash in between repeats records."""

    def __init__(self, producer: Producer, group: Group) -> None:
        self._producer = producer
        self._group = group

    def send(self, records: Sequence[Encoded], offsets: Sequence[Offset]) -> None:
        errors: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: object) -> None:
            if error is not None:
                errors.append(error)

        try:
            for record in records:
                self._producer.produce(
                    record.topic, key=record.key, value=record.value, headers=record.headers, on_delivery=delivered
                )
        except (KafkaException, BufferError) as error:
            self._producer.flush(CALL_TIMEOUT_S)
            raise TryAgain(f"produce: {error}") from error
        if self._producer.flush(CALL_TIMEOUT_S) or errors:
            raise TryAgain(f"not acknowledged: {errors[0].str() if errors else 'no answer'}")
        if offsets:
            self._commit(offsets)
        metrics.FLUSHES.labels("committed").inc()

    def close(self) -> None:
        """Nothing is left in the queue between two calls of `send`."""

    def _commit(self, offsets: Sequence[Offset]) -> None:
        try:
            self._group.commit([offset.to_kafka() for offset in offsets])
        except KafkaException as error:
            if error.args[0].retriable():
                raise TryAgain(f"commit: {error}") from error
            # The partition has moved on; its next owner repeats what is not committed.
            _log.warning("commit_refused", error=str(error))


def _patiently(call: Callable[[], object]) -> None:
    """Repeat a call that may be repeated; librdkafka goes on where it was."""
    for _ in range(3):
        try:
            call()
        except KafkaException as error:
            if not error.args[0].retriable():
                raise
            last = error
        else:
            return
    raise last


def _committed(group: Group, offsets: Sequence[Offset]) -> dict[tuple[str, int], tuple[int, str]]:
    asked = [TopicPartition(offset.topic, offset.partition) for offset in offsets]
    try:
        answers = group.committed(asked, CALL_TIMEOUT_S)
    except KafkaException as error:
        raise TryAgain(f"committed: {error}") from error
    return {(a.topic, a.partition): (a.offset, a.metadata or "") for a in answers}
