"""What a record says that is no event: as many of its fields as can be read, and where reading ended.

For people, who look at dead letters; a worker never goes on with half a record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from worker.errors import RegistryUnavailable, UndecodableError
from worker.events.avro_binary import AvroError, BinaryReader
from worker.events.avro_schema import Array, EnumType, Fixed, Map, Primitive, Record, Type, Union
from worker.events.avro_values import MAX_ITEMS
from worker.events.codec import EventCodec
from worker.events.single_object import CONFLUENT_MAGIC, MARKER, Headers, schema_id_header
from worker.events.types import Event

_UNITS_PER_S = {"timestamp-millis": 1_000, "timestamp-micros": 1_000_000, "timestamp-nanos": 1_000_000_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What could be read of a value.

    Args:
        framing: `single-object`, `confluent`, `json`, `text`, `bytes`, `empty` or `null`.
        schema: the name of the writer's record; None where it is not known.
        fields: by name, as JSON types, those of the event where it is one; bytes that are no UTF-8 are hexadecimal.
        error: why it is no event; None where it is one.
        stopped_at: the field that could not be read, after those that were.
        event: the whole event, where it is one.
    """

    framing: str
    schema: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    stopped_at: str | None = None
    event: Event | None = None


def read_partly(codec: EventCodec, data: bytes | None, *, topic: str | None, headers: Headers) -> Reading:
    """Read a value as far as it goes; nothing in it makes this fail.

    Args:
        topic: on which the record was first, since some schema registries need it.
    """
    framing = _framing(data, headers)
    try:
        event = codec.decode_any(data, topic=topic, headers=headers)
    except (UndecodableError, RegistryUnavailable) as error:
        reason = str(error)
    else:
        return Reading(framing=framing, schema=type(event).__name__, fields=event_fields(event), event=event)
    if framing == "json":
        return Reading(framing=framing, fields=_json_object(data or b""), error=reason)
    if framing in ("single-object", "confluent"):
        schema, fields, stopped_at = _as_written(codec, data or b"", topic, headers)
        return Reading(framing=framing, schema=schema, fields=fields, error=reason, stopped_at=stopped_at)
    return Reading(framing=framing, error=reason)


def event_fields(event: Event) -> dict[str, Any]:
    """An event's fields as JSON types: times as ISO 8601, NaN and infinity as null."""
    return {name: _json_value(value) for name, value in asdict(event).items()}


def _json_value(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat(timespec="milliseconds")
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _json_value(item) for key, item in value.items()}
        case list() | tuple():
            return [_json_value(item) for item in value]
        case _:
            return value


def _framing(data: bytes | None, headers: Headers) -> str:
    if not data:
        return "null" if data is None else "empty"
    if data.startswith(MARKER):
        return "single-object"
    if data.startswith(CONFLUENT_MAGIC) or schema_id_header(headers):
        return "confluent"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "bytes"
    return "json" if text.lstrip()[:1] in ("{", "[") else "text"


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _as_written(
    codec: EventCodec, data: bytes, topic: str | None, headers: Headers
) -> tuple[str | None, dict[str, Any], str | None]:
    """The writer's name, its fields as far as they can be read, and the first one that cannot."""
    try:
        writer, start = codec.writer(data, topic=topic, headers=headers)
    except (UndecodableError, RegistryUnavailable):
        return None, {}, None
    reader, fields = BinaryReader(data, start), {}
    for item in writer.record.fields:
        try:
            fields[item.name] = _value(item.type, reader)
        except (AvroError, RecursionError):
            return writer.name, fields, item.name
    return writer.name, fields, None


def _value(of: Type, data: BinaryReader) -> Any:
    match of:
        case Primitive():
            return _primitive(of, data)
        case Fixed():
            return _text(data.take(of.size))
        case EnumType():
            return of.symbols[data.read_index(len(of.symbols))]
    data.enter()
    found: Any
    match of:
        case Union():
            found = _value(of.branches[data.read_index(len(of.branches))], data)
        case Array():
            found = []
            for _ in data.items():
                _check_room(len(found))
                found.append(_value(of.items, data))
        case Map():
            found = {}
            for _ in data.items():
                _check_room(len(found))
                key = data.read_string()
                found[key] = _value(of.values, data)
        case Record():
            data.step(len(of.fields))
            found = {item.name: _value(item.type, data) for item in of.fields}
    data.leave()
    return found


def _primitive(of: Primitive, data: BinaryReader) -> Any:
    match of.kind:
        case "null":
            return None
        case "boolean":
            return data.read_boolean()
        case "int":
            return data.read_int()
        case "long":
            return _instant(data.read_long(), of.logical)
        case "float":
            return _finite(data.read_float())
        case "double":
            return _finite(data.read_double())
        case "bytes" | "string":
            return _text(data.read_bytes())


def _instant(number: int, logical: str | None) -> int | str:
    units = _UNITS_PER_S.get(logical or "")
    if units is None:
        return number
    try:
        return datetime.fromtimestamp(number / units, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return number


def _finite(number: float) -> float | str:
    """JSON has no NaN and no infinity."""
    return number if math.isfinite(number) else str(number)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.hex()


def _check_room(count: int) -> None:
    if count >= MAX_ITEMS:
        raise AvroError(f"more than {MAX_ITEMS} items")
