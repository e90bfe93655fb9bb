"""Results and offsets in one Kafka transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from worker.delivery.reports import DeliveryReports, collect_reports, produce
from worker.delivery.rights import missing_right
from worker.delivery.transport import (
    CALL_TIMEOUT_S,
    CALL_TRIES,
    INIT_TIMEOUT_S,
    LATER_CALL_TIMEOUT_S,
    NOBODY,
    TRANSACTION_CALL_TIMEOUT_S,
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

# A transaction holds up its partitions' next owner until it times out (librdkafka#3265), and a message that is not
# delivered within the transaction is of no use. With the default of 100 ms, the broker's short
# CONCURRENT_TRANSACTIONS after each commit would cost that much per flush (facts, Kafka 20).
TRANSACTION_CONFIG: dict[str, Any] = {
    "transaction.timeout.ms": 15_000,
    "message.timeout.ms": 12_000,
    "retry.backoff.ms": 5,
    "linger.ms": 0,
    **UNKNOWN_TOPIC_CONFIG,
}

# The offsets were refused, the producer is sound.
_MEMBERSHIP_ERRORS = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.FENCED_MEMBER_EPOCH,
    KafkaError.REBALANCE_IN_PROGRESS,
}
# The same offsets with the same metadata will be refused again. A right that is missing is no reason: it is not the
# outcomes' fault, and they must not be made smaller for it.
_OFFSETS_REFUSED = {
    KafkaError.OFFSET_METADATA_TOO_LARGE,
    KafkaError.INVALID_COMMIT_OFFSET_SIZE,
}


class ExactlyOnce:
    """One Kafka transaction per call, for all members of the worker together.

    Args:
        make_producer: a new transactional producer with a stable `transactional.id`; called again after a fatal error.
        group: whose offsets are committed with the records.
        on_error: called with every error of a producer; what it raises goes to the caller of `open` and `send`.
    """

    def __init__(
        self,
        make_producer: Callable[[], Producer],
        group: Group,
        on_error: Callable[[KafkaError], None] = lambda _error: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_producer = make_producer
        self._group = group
        self._on_error = on_error
        self._clock = clock
        self._producer: Producer | None = None
        # Offsets of a commit whose answer was lost: only the broker knows whether it took place.
        self._in_doubt: Sequence[Offset] = ()
        # The coordinator did not answer about these: nothing is sent before it answers another client, since every try
        # that it leaves without an answer keeps a producer with its threads (`producer`).
        self._unanswered: Sequence[Offset] = ()
        # What was committed for them when `prepare` asked.
        self._found: dict[tuple[str, int], tuple[int, str]] = {}

    def open(self) -> None:
        """Fence off a predecessor and wait until its transaction is ended. Raises KafkaException, TryAgain."""
        producer = self._make_producer()
        try:
            producer.init_transactions(INIT_TIMEOUT_S)
        except KafkaException as error:
            self._on_error(error.args[0])
            raise TryAgain(f"init_transactions: {error}", right=missing_right(error.args[0])) from error
        self._producer = producer

    def prepare(self, *, again: bool = False) -> None:
        if self._unanswered:
            _committed(self._group, self._unanswered)
            self._unanswered = ()
        if self._producer is None:
            self.open()
        witnesses = [offset for offset in self._in_doubt if offset.finishing] if again else []
        self._found = _committed(self._group, witnesses) if witnesses else {}

    def membership(self) -> Membership:
        return self._group.membership

    def send(
        self,
        records: Sequence[Encoded],
        offsets: Sequence[Offset],
        membership: Membership = NOBODY,
        *,
        again: bool = False,
    ) -> Mapping[int, int]:
        took_place = again and self._took_place(offsets)
        self._in_doubt = ()
        if took_place:
            return {}
        assert self._producer is not None, "prepare comes first"
        reports = DeliveryReports()
        try:
            self._transact(self._producer, records, offsets, membership, reports)
        except KafkaException as error:
            # Before the abort, which reports every other record as purged.
            collect_reports(self._producer)
            refused, suspects = dict(reports.refused), dict(reports.unacknowledged)
            self._recover(error.args[0], refused=bool(refused))
            if refused or error.args[0].code() in _OFFSETS_REFUSED:
                raise Refused(f"transaction: {error}", refused) from error
            right = missing_right(error.args[0])
            raise TryAgain(f"transaction: {error}", {} if self._in_doubt else suspects, right=right) from error
        except BufferError as error:
            self._replace()
            raise TryAgain("the producer's queue is full") from error
        metrics.FLUSHES.labels("committed").inc()
        return reports.offsets

    def serve(self) -> None:
        if self._producer is not None:
            collect_reports(self._producer)

    def close(self) -> None:
        """Let go of the producer; nothing is open between two calls of `send`."""
        self._producer = None

    def _transact(
        self,
        producer: Producer,
        records: Sequence[Encoded],
        offsets: Sequence[Offset],
        membership: Membership,
        reports: DeliveryReports,
    ) -> None:
        producer.begin_transaction()
        produce(producer, records, reports)
        self._send_offsets(producer, offsets, membership)
        self._in_doubt = offsets
        _patiently(lambda: producer.commit_transaction(TRANSACTION_CALL_TIMEOUT_S))
        self._in_doubt = ()

    def _send_offsets(self, producer: Producer, offsets: Sequence[Offset], membership: Membership) -> None:
        """Add the offsets, those of each topic in the name of its own member.

        One member that is refused is enough for the whole transaction not to take place: results and offsets of one
        lane cannot be told from those of another any more.
        """
        deadline = self._clock() + TRANSACTION_CALL_TIMEOUT_S
        for topic in dict.fromkeys(offset.topic for offset in offsets):
            own = [offset for offset in offsets if offset.topic == topic]
            timeout_s = max(LATER_CALL_TIMEOUT_S, deadline - self._clock())
            # Once only: a call that got no answer may still be under way (`producer`).
            try:
                producer.send_offsets_to_transaction([o.to_kafka() for o in own], membership[topic], timeout_s)
            except KafkaException as error:
                if error.args[0].code() == KafkaError._TIMED_OUT:
                    self._unanswered = own[:1]
                raise

    def _recover(self, error: KafkaError, *, refused: bool) -> None:
        """Leave the way clear for the next try: abort after a rebalance, else go on with a new producer.

        A producer whose messages timed out needs its epoch bumped before it can go on, and may stand still for more
        than a minute over it (tried: broker gone for 20 s). A new one is there as soon as the broker is, and its
        init_transactions ends what was open.
        """
        metrics.FLUSHES.labels("aborted").inc()
        _log.warning("transaction_failed", error=error.str(), code=error.name(), fatal=error.fatal())
        self._on_error(error)
        if error.txn_requires_abort():
            # An abortable error on commit says that it did not take place.
            self._in_doubt = ()
            # Not after a refusal: the producer then skips sequence numbers, and the next transaction fails.
            if error.code() in _MEMBERSHIP_ERRORS and not refused and self._abort():
                return
        self._replace()

    def _abort(self) -> bool:
        assert self._producer is not None
        producer = self._producer
        try:
            _patiently(lambda: producer.abort_transaction(TRANSACTION_CALL_TIMEOUT_S))
        except KafkaException as error:
            _log.warning("abort_failed", error=str(error))
            return False
        return True

    def _replace(self) -> None:
        if self._producer is not None:
            self._producer.purge()
            self._producer = None

    def _took_place(self, wanted: Sequence[Offset]) -> bool:
        """Whether the commit in doubt did take place.

        Offsets and records are of one transaction, so the committed offsets tell about the records. Only partitions
        with an outcome that is still ours can tell: nobody else has committed there, and an outcome always changes
        what is committed. A new producer's init_transactions has ended the old transaction, so the answer is final.
        """
        ours = {offset.place for offset in wanted if offset.finishing}
        witnesses = [offset for offset in self._in_doubt if offset.finishing and offset.place in ours]
        if not witnesses:
            return False
        return all(self._found.get(o.place) == (o.offset, o.metadata) for o in witnesses)


def _patiently(call: Callable[[], object]) -> None:
    """Repeat a call that may be repeated; librdkafka goes on where it was."""
    for _ in range(CALL_TRIES):
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
