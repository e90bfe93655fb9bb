"""Confluent framing: a registry's schema id before the record, or in a header."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from confluent_kafka.schema_registry import topic_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from worker.errors import UndecodableError
from worker.events.conversion import to_record
from worker.events.registry import Registry, SchemaKey
from worker.events.schema_lookup import COMMAND, Patience, SchemaLookup
from worker.events.schemas import current
from worker.events.single_object import (
    CONFLUENT_MAGIC,
    MARKER,
    Framing,
    Headers,
    SingleObjectCodec,
    present,
    schema_id_header,
    unknown_framing,
)
from worker.events.types import E, Event
from worker.events.writers import Writer

_ID_BYTES = 4
_PREFIX_BYTES = len(CONFLUENT_MAGIC) + _ID_BYTES
# Registries count in signed 32-bit numbers, and answer a larger one as they would a wrong address.
_MAX_ID = 2**31 - 1


class ConfluentCodec:
    """Writes Confluent framing; reads it, header-carried ids, and single-object encoding.

    Subjects are `<topic>-value`; the current schema is registered at the first use of a topic.

    Args:
        registry: where schemas are registered and looked up.
        extra_schemas: as for `SingleObjectCodec`.
        patience: how long `decode` waits for a schema that it has not read with yet.
    """

    def __init__(self, registry: Registry, extra_schemas: Iterable[str] = (), patience: Patience = COMMAND) -> None:
        self._registry = registry
        self._single_object = SingleObjectCodec(extra_schemas)
        self._serializers: dict[tuple[type, str], AvroSerializer] = {}
        self._lookup = SchemaLookup(registry.writer, patience)

    def encode(self, event: Event, *, topic: str) -> tuple[bytes, Framing]:
        """Raises: RegistryUnavailable: the schema could not be registered; later it may be."""
        key = (type(event), topic)
        if key not in self._serializers:
            self._serializers[key] = _serializer(self._registry, type(event))
        data = self._serializers[key](event, SerializationContext(topic, MessageField.VALUE))
        assert data is not None
        return data, ()

    def decode(self, data: bytes | None, *, topic: str, headers: Headers, expected: type[E]) -> E:
        data = present(data)
        writer, start = self.writer(data, topic=topic, headers=headers, expected=expected.__name__)
        return writer.read(data, start, expected)

    def decode_any(self, data: bytes | None, *, topic: str | None, headers: Headers) -> Event:
        data = present(data)
        writer, start = self.writer(data, topic=topic, headers=headers)
        return writer.event(data, start)

    def close(self) -> None:
        self._lookup.close()
        self._registry.close()

    def writer(
        self, data: bytes, *, topic: str | None, headers: Headers, expected: str | None = None
    ) -> tuple[Writer, int]:
        """The writer's schema, and where the record begins. Raises UndecodableError, RegistryUnavailable."""
        if data.startswith(MARKER):
            return self._single_object.writer(data, topic=topic, headers=headers, expected=expected)
        header = schema_id_header(headers)
        if header is None and not data.startswith(CONFLUENT_MAGIC):
            raise unknown_framing(data)
        framing, start = (data[:_PREFIX_BYTES], _PREFIX_BYTES) if header is None else (header, 0)
        return self._lookup.get(_key(framing, None if topic is None else f"{topic}-value")), start


def _key(framing: bytes, subject: str | None) -> SchemaKey:
    if not framing.startswith(CONFLUENT_MAGIC):
        return SchemaKey(None, str(uuid.UUID(bytes=framing[1:])), None)
    if len(framing) < _PREFIX_BYTES:
        raise UndecodableError("the value ends within the Confluent schema id")
    number = int.from_bytes(framing[len(CONFLUENT_MAGIC) :], "big")
    if number > _MAX_ID:
        raise UndecodableError(f"{number} is no schema id: they end at {_MAX_ID}")
    return SchemaKey(number, None, subject)


def _serializer(registry: Registry, cls: type) -> AvroSerializer:
    conf = {"auto.register.schemas": True, "subject.name.strategy": topic_subject_name_strategy}
    serializer: AvroSerializer = AvroSerializer(registry, current()[cls].text, lambda event, _: to_record(event), conf)
    return serializer
