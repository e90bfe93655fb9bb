"""Avro single-object encoding: `C3 01`, the schema's CRC-64-AVRO fingerprint, the record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from io import BytesIO
from typing import TypeAlias

from fastavro import schemaless_writer

from worker.errors import UndecodableError
from worker.events.conversion import to_record
from worker.events.schemas import current, parse, released
from worker.events.types import E, Event
from worker.events.writers import Writer

Headers: TypeAlias = Sequence[tuple[str, bytes | str | None]] | None
Framing: TypeAlias = tuple[tuple[str, bytes], ...]

MARKER = b"\xc3\x01"
CONFLUENT_MAGIC = b"\x00"
# The serializers of AWS Glue write 03, a byte for the compression (none or zlib) and the 16 bytes of a schema version.
GLUE_VERSION = b"\x03"
GLUE_COMPRESSIONS = (b"\x00", b"\x05")
SCHEMA_ID_HEADER = "__value_schema_id"
_PREFIX_BYTES = len(MARKER) + 8
UNKNOWN_WRITER_REMEDY = (
    "A schema of fewer fields is another schema: write with all fields of the worker's (a record may leave out those"
    " with a default), or name your own by a registry's id, or add it to WRITER_SCHEMAS_PATH."
)


class SingleObjectCodec:
    """Writes the current schemas, reads those and every released one.

    Args:
        extra_schemas: JSON texts of further record schemas to read, such as those of a newer writer.
    """

    def __init__(self, extra_schemas: Iterable[str] = ()) -> None:
        extra = {schema.fingerprint: Writer(schema.text) for schema in map(parse, extra_schemas)}
        self._writers = extra | _own_writers()

    def encode(self, event: Event, *, topic: str) -> tuple[bytes, Framing]:  # noqa: ARG002 - the protocol's
        schema = current()[type(event)]
        buffer = BytesIO()
        buffer.write(MARKER + schema.fingerprint)
        schemaless_writer(buffer, schema.parsed, to_record(event))
        return buffer.getvalue(), ()

    def decode(self, data: bytes | None, *, topic: str, headers: Headers, expected: type[E]) -> E:
        data = present(data)
        writer, start = self.writer(data, topic=topic, headers=headers, expected=expected.__name__)
        return writer.read(data, start, expected)

    def decode_any(self, data: bytes | None, *, topic: str | None, headers: Headers) -> Event:
        data = present(data)
        writer, start = self.writer(data, topic=topic, headers=headers)
        return writer.event(data, start)

    def close(self) -> None:
        """Nothing is open."""

    def writer(
        self,
        data: bytes,
        *,
        topic: str | None,  # noqa: ARG002 - the protocol's
        headers: Headers,
        expected: str | None = None,
    ) -> tuple[Writer, int]:
        if not data.startswith(MARKER):
            if data.startswith(CONFLUENT_MAGIC) or schema_id_header(headers):
                raise UndecodableError("Confluent framing, but no schema registry: set SCHEMA_REGISTRY_URL")
            raise unknown_framing(data)
        fingerprint = data[len(MARKER) : _PREFIX_BYTES]
        writer = self._writers.get(fingerprint)
        if writer is None:
            raise UndecodableError(
                f"unknown schema fingerprint {fingerprint.hex() or 'none'}. {self._remedy(expected)}"
            )
        return writer, _PREFIX_BYTES

    def _remedy(self, expected: str | None) -> str:
        """What a writer with another schema must do, and the schemas that it may write with."""
        # Last, since a reason has a limited length.
        replaced = {schema.fingerprint for schema in released()} - {schema.fingerprint for schema in current().values()}
        known = ", ".join(
            f"{writer.name} {fingerprint.hex()}"
            for fingerprint, writer in sorted(self._writers.items(), key=lambda item: item[0] in replaced)
            if expected in (None, writer.name)
        )
        return f"{UNKNOWN_WRITER_REMEDY} Known: {known}"


@cache
def _own_writers() -> dict[bytes, Writer]:
    return {schema.fingerprint: Writer(schema.text) for schema in (*released(), *current().values())}


def present(data: bytes | None) -> bytes:
    if not data:
        raise UndecodableError("the value is null" if data is None else "the value is empty")
    return data


def unknown_framing(data: bytes) -> UndecodableError:
    if data.startswith(GLUE_VERSION) and data[1:2] in GLUE_COMPRESSIONS:
        return UndecodableError(
            "AWS Glue's framing (03), whose registry this service does not read: write Avro single-object encoding, or "
            "Confluent framing with a registry that speaks Confluent's interface"
        )
    start = data[:2].hex(" ")
    return UndecodableError(f"starts with {start}: neither Avro single-object (c3 01) nor Confluent (00)")


def schema_id_header(headers: Headers) -> bytes | None:
    """Confluent's header-carried schema id: 1 and a 16-byte GUID, or 0 and a 4-byte id."""
    values = (value for name, value in headers or () if name == SCHEMA_ID_HEADER)
    return next((v for v in values if isinstance(v, bytes) and (len(v), v[:1]) in _ID_FORMS), None)


_ID_FORMS = {(17, b"\x01"), (5, b"\x00")}
