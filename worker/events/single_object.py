"""Avro single-object encoding: `C3 01`, the schema's CRC-64-AVRO fingerprint, the record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any, TypeAlias

from fastavro import schemaless_reader, schemaless_writer

from worker.errors import UndecodableError
from worker.events.schemas import Schema, current, parse, released
from worker.events.types import BY_NAME, E, Event, from_record, to_record

Headers: TypeAlias = Sequence[tuple[str, bytes | str | None]] | None
Framing: TypeAlias = tuple[tuple[str, bytes], ...]

MARKER = b"\xc3\x01"
CONFLUENT_MAGIC = b"\x00"
SCHEMA_ID_HEADER = "__value_schema_id"
_PREFIX_BYTES = len(MARKER) + 8


class Payload(BytesIO):
    """A record's bytes; reading more than there are is an error, also where fastavro only skips."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._size = len(data)

    @property
    def rest(self) -> int:
        """Bytes not yet read."""
        return self._size - self.tell()

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= self.rest:
            raise EOFError(f"{size} bytes wanted, {self.rest} left")
        return super().read(size)


class SingleObjectCodec:
    """Writes the current schemas, reads those and every released one.

    Args:
        extra_schemas: JSON texts of further record schemas to read, such as those of a newer writer.
    """

    def __init__(self, extra_schemas: Iterable[str] = ()) -> None:
        known = (*map(parse, extra_schemas), *released(), *current().values())
        self._writers = {schema.fingerprint: schema for schema in known}

    def encode(self, event: Event, *, topic: str) -> tuple[bytes, Framing]:  # noqa: ARG002 - the protocol's
        schema = current()[type(event)]
        buffer = BytesIO()
        buffer.write(MARKER + schema.fingerprint)
        schemaless_writer(buffer, schema.parsed, to_record(event))
        return buffer.getvalue(), ()

    def decode(self, data: bytes | None, *, topic: str, headers: Headers, expected: type[E]) -> E:  # noqa: ARG002
        writer, payload = self._open(data, headers)
        return read_event(payload, writer, expected)

    def decode_any(self, data: bytes | None, *, topic: str | None, headers: Headers) -> Event:  # noqa: ARG002
        writer, payload = self._open(data, headers)
        return read_event(payload, writer, event_type(writer))

    def close(self) -> None:
        """Nothing is open."""

    def _open(self, data: bytes | None, headers: Headers) -> tuple[Schema, Payload]:
        data = present(data)
        if not data.startswith(MARKER):
            if data.startswith(CONFLUENT_MAGIC) or schema_id_header(headers):
                raise UndecodableError("Confluent framing, but no schema registry: set SCHEMA_REGISTRY_URL")
            raise unknown_framing(data)
        writer = self._writers.get(data[len(MARKER) : _PREFIX_BYTES])
        if writer is None:
            digits = data[len(MARKER) : _PREFIX_BYTES].hex() or "none"
            raise UndecodableError(f"unknown schema fingerprint {digits}: is the writer newer?")
        return writer, Payload(data[_PREFIX_BYTES:])


def present(data: bytes | None) -> bytes:
    if not data:
        raise UndecodableError("the value is null" if data is None else "the value is empty")
    return data


def unknown_framing(data: bytes) -> UndecodableError:
    start = data[:2].hex(" ")
    return UndecodableError(f"starts with {start}: neither Avro single-object (c3 01) nor Confluent (00)")


def schema_id_header(headers: Headers) -> bytes | None:
    """Confluent's header-carried schema id: 1 and a 16-byte GUID, or 0 and a 4-byte id."""
    values = (value for name, value in headers or () if name == SCHEMA_ID_HEADER)
    return next((v for v in values if isinstance(v, bytes) and (len(v), v[:1]) in _ID_FORMS), None)


_ID_FORMS = {(17, b"\x01"), (5, b"\x00")}


def event_type(writer: Schema) -> type[Event]:
    try:
        return BY_NAME[writer.name]
    except KeyError:
        raise UndecodableError(f"{writer.name} is none of this service's events") from None


def require_type(writer: Schema, expected: type) -> None:
    if writer.name != expected.__name__:
        raise UndecodableError(f"a {writer.name}, where a {expected.__name__} was expected")


def require_end(payload: Payload) -> None:
    if payload.rest:
        raise UndecodableError(f"{payload.rest} bytes follow the record")


def read_event(payload: Payload, writer: Schema, expected: type[E]) -> E:
    """Read all of `payload` by schema resolution.

    Raises:
        UndecodableError: it is not exactly one record of the expected type.
    """
    require_type(writer, expected)
    try:
        record: Any = schemaless_reader(payload, writer.parsed, current()[expected].parsed)
        event = from_record(expected, record)
    except Exception as error:
        raise invalid(expected, error) from error
    require_end(payload)
    return event


def invalid(expected: type, error: Exception) -> UndecodableError:
    """Bad bytes make fastavro raise a dozen unrelated types: all of them mean this."""
    return UndecodableError(f"not a valid {expected.__name__}: {type(error).__name__}: {str(error)[:200]}")
