"""What became of each record that a producer was given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from worker.delivery.blocked import Cause

# Another try of the same record gives the same answer. Only these take a record out of its flush at once: whatever else
# goes wrong may pass, or is not the fault of the record.
_OF_TOPIC = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_EXCEPTION,
}
# A batch of small records is refused too where their sum is over the topic's max.message.bytes.
_OF_SIZE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
_OF_RECORD = {
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.POLICY_VIOLATION,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
}


# A producer reports one fatal error, and others at most as its consequence.
_FATAL_EVENTS = 5


class Record(Protocol):
    """A record ready for the producer (`transport.Encoded`)."""

    @property
    def topic(self) -> str: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> list[tuple[str, str | bytes | None]]: ...
    @property
    def where(self) -> Mapping[str, Any]: ...


@dataclass(slots=True)
class DeliveryReports:
    """What did not become durable, and why, by the index of the record.

    Args:
        refused: another try would end in the same way.
        unacknowledged: another try may succeed.
        offsets: where the others were written.
    """

    refused: dict[int, Cause] = field(default_factory=dict)
    unacknowledged: dict[int, Cause] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)

    def note(self, index: int, topic: str, error: KafkaError) -> None:
        """The record at `index` was not written."""
        cause = cause_of(error, topic)
        if cause is None:
            self.unacknowledged[index] = Cause(f"{topic}: {error.str()}")
        else:
            self.refused[index] = cause

    def callback(self, index: int, topic: str) -> Callable[[KafkaError | None, object], None]:
        """What librdkafka calls once it knows about the record at `index`."""

        def delivered(error: KafkaError | None, message: Any) -> None:
            if error is None:
                self.offsets[index] = message.offset()
            else:
                self.note(index, topic, error)

        return delivered


def cause_of(error: KafkaError, topic: str) -> Cause | None:
    """Why a record for `topic` will be refused again; None for an error that may pass."""
    code = error.code()
    if code not in _OF_TOPIC | _OF_SIZE | _OF_RECORD:
        return None
    return Cause(f"{topic}: {error.str()}", of_topic=code in _OF_TOPIC, size=code in _OF_SIZE)


def collect_reports(producer: Producer) -> None:
    """Serve the delivery reports that have arrived.

    A fatal error of the producer is raised by whichever call serves its events, before the reports behind it; it also
    fails every later call, which tells it to the caller.
    """
    for _ in range(_FATAL_EVENTS):
        with contextlib.suppress(KafkaException):
            producer.poll(0)
            return


def produce(producer: Producer, records: Sequence[Record], reports: DeliveryReports) -> None:
    """Give the records to the producer; what it refuses itself is in the reports too.

    Raises:
        KafkaException: it refused one.
        BufferError: its queue is full.
    """
    for index, record in enumerate(records):
        try:
            producer.produce(
                record.topic,
                key=record.key,
                value=record.value,
                headers=record.headers,
                on_delivery=reports.callback(index, record.topic),
                **record.where,
            )
        except KafkaException as error:
            reports.note(index, record.topic, error.args[0])
            raise
