"""Confluent framing, through confluent-kafka's own serializers and a schema registry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any, ParamSpec, TypeAlias, TypeVar

from confluent_kafka.schema_registry import (
    RegisteredSchema,
    SchemaRegistryClient,
    SchemaRegistryError,
    dual_schema_id_deserializer,
    topic_subject_name_strategy,
)
from confluent_kafka.schema_registry import Schema as RegistrySchema
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.serde import SchemaId
from confluent_kafka.serialization import MessageField, SerializationContext
from fastavro.schema import parse_schema

from worker.errors import RegistryUnavailable, UndecodableError, WorkerError
from worker.events.schemas import Schema, current, parse
from worker.events.single_object import (
    CONFLUENT_MAGIC,
    MARKER,
    SCHEMA_ID_HEADER,
    Framing,
    Headers,
    Payload,
    SingleObjectCodec,
    event_type,
    invalid,
    present,
    require_end,
    require_type,
    schema_id_header,
    unknown_framing,
)
from worker.events.types import E, Event, from_record, to_record

# The caller retries, so the client gives up soon.
_TIMEOUT_S = 3
_MAX_RETRIES = 1
_RETRY_WAIT_MS = 100
_SCHEMA_NOT_FOUND = 40403

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Named: TypeAlias = dict[str, dict[str, Any]]


class Registry(SchemaRegistryClient):
    """confluent-kafka's client, with its errors sorted into this package's two kinds."""

    def __init__(self, url: str, user_info: str | None = None) -> None:
        conf: dict[str, object] = {
            "url": url,
            "timeout": _TIMEOUT_S,
            "max.retries": _MAX_RETRIES,
            "retries.wait.ms": _RETRY_WAIT_MS,
        }
        super().__init__(conf if user_info is None else conf | {"basic.auth.user.info": user_info})

    def get_schema(self, *args: Any, **kwargs: Any) -> RegistrySchema:
        return _ask(super().get_schema, *args, **kwargs)

    def get_schema_by_guid(self, *args: Any, **kwargs: Any) -> RegistrySchema:
        return _ask(super().get_schema_by_guid, *args, **kwargs)

    def get_version(self, *args: Any, **kwargs: Any) -> RegisteredSchema:
        return _ask(super().get_version, *args, **kwargs)

    def register_schema_full_response(self, *args: Any, **kwargs: Any) -> RegisteredSchema:
        return _ask(super().register_schema_full_response, *args, **kwargs)


def _ask(call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    try:
        return call(*args, **kwargs)
    except SchemaRegistryError as error:
        if error.error_code == _SCHEMA_NOT_FOUND:
            raise UndecodableError("the schema registry does not know the message's schema id") from error
        raise RegistryUnavailable(f"the schema registry refuses: {error}") from error
    except Exception as error:
        # The client lets through what its HTTP library raises, which may be httpx or httpx2.
        kind = type(error).__name__
        raise RegistryUnavailable(f"no answer from the schema registry: {kind}: {error}") from error


class _Reading(SerializationContext):
    """One decoding; `payload` is what the deserializer was given to read."""

    payload = Payload(b"")

    def __init__(self, topic: str | None, headers: Headers) -> None:
        header = schema_id_header(headers)
        framing = [] if header is None else [(SCHEMA_ID_HEADER, header)]
        super().__init__(topic, MessageField.VALUE, framing)  # type: ignore[arg-type]  # None: no subject


class ConfluentCodec:
    """Writes Confluent framing; reads it, header-carried ids, and single-object encoding.

    Subjects are `<topic>-value`; the current schema is registered at the first use of a topic.

    Args:
        registry: where schemas are registered and looked up.
        extra_schemas: as for `SingleObjectCodec`.
    """

    def __init__(self, registry: Registry, extra_schemas: Iterable[str] = ()) -> None:
        self._registry = registry
        self._single_object = SingleObjectCodec(extra_schemas)
        self._serializers: dict[tuple[type, str], AvroSerializer] = {}
        self._deserializers = {cls: _deserializer(registry, cls) for cls in current()}
        self._writers: dict[tuple[int | None, str | None], Schema] = {}

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
        if data.startswith(MARKER):
            return self._single_object.decode(data, topic=topic, headers=headers, expected=expected)
        reading = _Reading(topic, headers)
        return self._read(data, reading, self._writer(data, reading), expected)

    def decode_any(self, data: bytes | None, *, topic: str | None, headers: Headers) -> Event:
        data = present(data)
        if data.startswith(MARKER):
            return self._single_object.decode_any(data, topic=topic, headers=headers)
        reading = _Reading(topic, headers)
        writer = self._writer(data, reading)
        return self._read(data, reading, writer, event_type(writer))

    def close(self) -> None:
        self._registry.close()

    def _read(self, data: bytes, reading: _Reading, writer: Schema, expected: type[E]) -> E:
        require_type(writer, expected)
        try:
            record: Any = self._deserializers[expected](data, reading)
            event = from_record(expected, record)
        except WorkerError:
            raise
        except Exception as error:
            raise invalid(expected, error) from error
        require_end(reading.payload)
        return event

    def _writer(self, data: bytes, reading: _Reading) -> Schema:
        """The writer's schema, checked before confluent-kafka lets fastavro loose on it."""
        if not (reading.headers or data.startswith(CONFLUENT_MAGIC)):
            raise unknown_framing(data)
        schema_id = SchemaId("AVRO")
        try:
            dual_schema_id_deserializer(data, reading, schema_id)
        except Exception as error:
            raise UndecodableError("the value ends within the Confluent schema id") from error
        guid = None if schema_id.guid is None else str(schema_id.guid)
        key = (schema_id.id, guid)
        if key not in self._writers:
            self._writers[key] = self._fetch(schema_id.id, guid, _subject(reading, None))
        return self._writers[key]

    def _fetch(self, schema_id: int | None, guid: str | None, subject: str | None) -> Schema:
        if schema_id is not None:
            found = self._registry.get_schema(schema_id, subject)
        else:
            found = self._registry.get_schema_by_guid(guid)
        try:
            if found.schema_type not in (None, "AVRO"):
                raise ValueError(f"it is {found.schema_type}, not Avro")
            return parse(found.schema_str or "", self._referenced(found, {}, set()))
        except WorkerError:
            raise
        except Exception as error:
            raise UndecodableError(f"the writer's schema {schema_id or guid} is unusable: {error}") from error

    def _referenced(self, schema: RegistrySchema, named: _Named, seen: set[object]) -> _Named:
        for reference in schema.references or ():
            key = (reference.subject, reference.version)
            if key not in seen:
                seen.add(key)
                found = self._registry.get_version(*key, deleted=True).schema
                self._referenced(found, named, seen)
                parse_schema(json.loads(found.schema_str or ""), named_schemas=named)
        return named


def _serializer(registry: Registry, cls: type) -> AvroSerializer:
    conf = {"auto.register.schemas": True, "subject.name.strategy": topic_subject_name_strategy}
    serializer: AvroSerializer = AvroSerializer(registry, current()[cls].text, lambda event, _: to_record(event), conf)
    return serializer


def _deserializer(registry: Registry, cls: type) -> AvroDeserializer:
    conf = {"subject.name.strategy": _subject, "schema.id.deserializer": _open_payload}
    deserializer: AvroDeserializer = AvroDeserializer(registry, current()[cls].text, conf=conf)
    return deserializer


def _subject(ctx: SerializationContext, _record_name: str | None) -> str | None:
    return None if ctx.topic is None else topic_subject_name_strategy(ctx, None)


def _open_payload(data: bytes, reading: _Reading, schema_id: SchemaId) -> BytesIO:
    reading.payload = Payload(dual_schema_id_deserializer(data, reading, schema_id).read())
    return reading.payload
