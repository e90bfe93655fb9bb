"""A batch's messages as records for the producer. One that cannot be written has the reason instead."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from worker.delivery.batch import Batch, Part, parts_of
from worker.delivery.blocked import Cause
from worker.delivery.transport import Encoded, Refused
from worker.errors import RegistryUnavailable
from worker.events.codec import EventCodec
from worker.outcome import Message

_log = structlog.get_logger()

# Records by the identity of their message, or why one cannot be written.
Records = Mapping[int, Encoded | Cause]


def encode_all(codec: EventCodec, batch: Batch) -> Records:
    """Every message of the batch. Raises RegistryUnavailable."""
    return {id(part.message): _encode(codec, part.message) for part in parts_of(batch.outcomes, batch.notices)}


def record_of(records: Records, index: int, part: Part) -> Encoded:
    """The record of a part to send. Raises Refused: it cannot be written; `index` is its place in the flush."""
    record = records[id(part.message)]
    if isinstance(record, Cause):
        raise Refused(record.text, {index: record})
    return record


def encoded(codec: EventCodec, message: Message) -> Encoded:
    """A message as the producer takes it. Raises RegistryUnavailable."""
    headers: list[tuple[str, str | bytes | None]] = list(message.headers)
    if message.value is None or isinstance(message.value, bytes):
        return Encoded(message.topic, message.key, message.value, headers, _where_to(message))
    value, framing = codec.encode(message.value, topic=message.topic)
    return Encoded(message.topic, message.key, value, [*headers, *framing], _where_to(message))


def _where_to(message: Message) -> dict[str, int]:
    where = {} if message.partition is None else {"partition": message.partition}
    return where if message.written_at is None else where | {"timestamp": round(message.written_at * 1000)}


def _encode(codec: EventCodec, message: Message) -> Encoded | Cause:
    try:
        return encoded(codec, message)
    except RegistryUnavailable:
        raise
    except Exception as error:  # a value that no schema takes is one outcome's trouble
        _log.error("event_not_encodable", topic=message.topic, exc_info=True)
        return Cause(f"{message.topic}: {type(error).__name__} while the event was encoded", size=True)
