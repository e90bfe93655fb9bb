"""Send records again, each together with the note that it was, so that none is sent twice.

The note is a record on the dead-letter topic itself (`dlq-resubmitted`), younger than the letter and so kept longer.
Request and note are one transaction, and there is one transactional id: who comes second ends the transaction of who
was first, before it reads which letters were sent. So two people, or a run that was killed and is repeated, send each
letter once. Brokers without transactions (`DELIVERY=at-least-once`) get the request first; if the process dies before
the note, the same request may be sent again, which is the same job with the same picture (docs/identity.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from worker.client.connection import ACK_TIMEOUT_MS, Connection
from worker.client.errors import CommandError
from worker.client.reach import reach
from worker.events.dead_letters import DeadLetter, resubmission_headers
from worker.topics import DEAD_LETTER_MAX_BYTES

# Records of one transaction.
BATCH = 100
_TIMEOUT_S = ACK_TIMEOUT_MS / 1000
_FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})


class OvertakenError(CommandError):
    """Somebody else resubmits dead letters at this moment; nothing of this batch was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resubmission:
    """A record that is sent in place of a dead letter."""

    letter: DeadLetter
    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class Resubmitter:
    """Sends batches of resubmissions. Read which letters were sent already only after it was entered.

    Raises:
        CommandError: Kafka does not answer or does not allow it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        settings = connection.settings
        self._atomic = settings.delivery == "exactly-once"
        own: dict[str, object] = {
            "enable.idempotence": True,
            "message.timeout.ms": ACK_TIMEOUT_MS,
            "message.max.bytes": DEAD_LETTER_MAX_BYTES,
        }
        if self._atomic:
            # No worker's: theirs begin with the group and a hyphen.
            own["transactional.id"] = f"{settings.kafka_topic_prefix}{settings.kafka_group_id}.dead-letters"
            own["transaction.timeout.ms"] = 2 * ACK_TIMEOUT_MS
        trouble = connection.trouble()
        self._producer = Producer(own | connection.config() | {"error_cb": trouble})
        self._errors: list[KafkaError] = []
        reach(self._producer, trouble)

    def __enter__(self) -> Self:
        if self._atomic:
            self._producer.init_transactions(_TIMEOUT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What is left in the queue of a client that was overtaken is reported as errors once more.
        with suppress(KafkaException, SystemError):
            self._producer.purge()
            self._producer.flush(0)

    def send(self, batch: Sequence[Resubmission]) -> None:
        """Send all of them, or none.

        Raises:
            OvertakenError: they were not sent, and this object is of no use any more.
            CommandError: they were not sent; the message says why.
        """
        self._errors.clear()
        try:
            if self._atomic:
                self._producer.begin_transaction()
                self._produce(batch)
                self._flush()
                self._producer.commit_transaction(_TIMEOUT_S)
            else:
                self._produce(batch)
                self._flush()
        except KafkaException as error:
            reason = error.args[0]
            if reason.code() in _FENCED:
                raise OvertakenError("somebody else resubmits dead letters at this moment; run it again") from error
            if self._atomic and not reason.fatal():
                self._producer.abort_transaction(_TIMEOUT_S)
                # Those that were not sent are reported as purged, and must not count against the next batch.
                self._producer.flush(_TIMEOUT_S)
            raise CommandError(f"not sent: {reason.str()}") from error

    def _produce(self, batch: Sequence[Resubmission]) -> None:
        for one in batch:
            self._one(one.topic, one.key, one.value, one.headers)
        if not self._atomic:
            # The notes only once the requests are there.
            self._flush()
        for one in batch:
            headers = resubmission_headers(one.letter, one.topic)
            self._one(self._connection.topics.dead_letter, one.letter.key, None, headers)

    def _one(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]
    ) -> None:
        self._producer.produce(topic, value, key, headers=list(headers), on_delivery=self._delivered)
        _served(lambda: self._producer.poll(0))

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._errors.append(error)

    def _flush(self) -> None:
        left = _served(lambda: self._producer.flush(_TIMEOUT_S + 5))
        if self._errors or left:
            error, self._errors = (self._errors or [KafkaError(KafkaError._TIMED_OUT)])[0], []
            raise KafkaException(error)


def _served(call: Callable[[], int]) -> int:
    """A call that runs callbacks. Raises KafkaException: a fatal error.

    confluent-kafka raises it before the callbacks that are left have run, and those then end in a SystemError that has
    it as its cause (tried, 2.16.1).
    """
    try:
        return call()
    except SystemError as error:
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from error
        # The error may be lost altogether (seen once, of a producer that was fenced meanwhile); the next call tells it.
        return call()
