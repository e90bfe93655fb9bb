"""Avro's schema resolution: from a writer's type and a reader's to a function that reads one as the other.

What is read has the plain Python type of the reader's schema, whatever the writer's says: `str`, `bytes`, `bool`,
`int`, `float`, `None`, `list`, `dict`. A writer's logical type never changes that. Where the reader has
timestamp-millis, the writer's own unit counts (millis, micros or nanos), and what names no instant (a date, a time
of day, a local timestamp) does not match; elsewhere logical types are ignored, as the specification asks.
https://avro.apache.org/docs/1.12.0/specification/#schema-resolution
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from worker.events.avro_binary import AvroError, BinaryReader
from worker.events.avro_schema import (
    Array,
    EnumType,
    Field,
    Fixed,
    Map,
    Primitive,
    PrimitiveKind,
    Record,
    Type,
    Union,
    unqualified,
)
from worker.events.avro_values import (
    Read,
    fail,
    read_array,
    read_enum,
    read_map,
    read_record,
    read_union,
    skip_entries,
    skip_items,
    skip_record,
)

_TIMESTAMP = "timestamp-millis"
_UNITS_PER_MILLI = {_TIMESTAMP: 1, "timestamp-micros": 1_000, "timestamp-nanos": 1_000_000}
_NO_INSTANT: Mapping[tuple[PrimitiveKind, str], str] = {
    ("int", "date"): "a date",
    ("int", "time-millis"): "a time of day",
    ("long", "time-micros"): "a time of day",
    ("long", "local-timestamp-millis"): "a local time without its timezone",
    ("long", "local-timestamp-micros"): "a local time without its timezone",
    ("long", "local-timestamp-nanos"): "a local time without its timezone",
}

_READ: Mapping[PrimitiveKind, Read] = {
    "null": BinaryReader.read_null,
    "boolean": BinaryReader.read_boolean,
    "int": BinaryReader.read_int,
    "long": BinaryReader.read_long,
    "float": BinaryReader.read_float,
    "double": BinaryReader.read_double,
    "bytes": BinaryReader.read_bytes,
    "string": BinaryReader.read_string,
}
_SKIP: Mapping[PrimitiveKind, Read] = {
    **_READ,
    "bytes": lambda data: data.skip(data.read_long()),
    "string": lambda data: data.skip(data.read_long()),
}
# Writer's and reader's kind -> how the bytes are read as the reader's.
_PROMOTED: Mapping[tuple[PrimitiveKind, PrimitiveKind], Read] = {
    ("int", "long"): BinaryReader.read_int,
    ("int", "float"): lambda data: float(data.read_int()),
    ("int", "double"): lambda data: float(data.read_int()),
    ("long", "float"): lambda data: float(data.read_long()),
    ("long", "double"): lambda data: float(data.read_long()),
    ("float", "double"): BinaryReader.read_float,
    ("string", "bytes"): BinaryReader.read_bytes,
    ("bytes", "string"): BinaryReader.read_string,
}


class Resolver:
    """Resolves types of one writer's schema, which may contain itself, against readers', which may not.

    Each named type is resolved once, however often a schema refers to it.
    """

    def __init__(self) -> None:
        self._reads: dict[tuple[Record, Record], Read | str] = {}
        self._skips: dict[Record, list[Read]] = {}

    def resolve(self, writer: Type, reader: Type) -> Read:
        """What reads a value of `writer` as one of `reader`.

        Raises:
            AvroError: they do not match, whatever the bytes; branches of a writer's union that do not match
                raise when they are read.
        """
        match writer, reader:
            case Union(), _:
                return partial(read_union, [self._branch(branch, reader) for branch in writer.branches])
            case _, Union():
                return self._first_match(writer, reader)
            case Primitive(), Primitive():
                return _primitive(writer, reader)
            case Array(), Array():
                return partial(read_array, self.resolve(writer.items, reader.items))
            case Map(), Map():
                return partial(read_map, self.resolve(writer.values, reader.values))
            case (EnumType(), EnumType()) if unqualified(writer.name) == unqualified(reader.name):
                return partial(read_enum, tuple(_symbol(symbol, reader) for symbol in writer.symbols), reader.name)
            case (Fixed(), Fixed()) if unqualified(writer.name) == unqualified(reader.name):
                if writer.size == reader.size:
                    return lambda data: data.take(writer.size)
            case (Record(), Record()) if unqualified(writer.name) == unqualified(reader.name):
                return self._record(writer, reader)
        raise AvroError(f"the writer has {describe(writer)}, where {describe(reader)} is expected")

    def skip(self, writer: Type) -> Read:
        """What passes over a value of `writer`."""
        match writer:
            case Primitive():
                return _SKIP[writer.kind]
            case Fixed():
                return lambda data: data.skip(writer.size)
            case EnumType():
                return lambda data: data.read_index(len(writer.symbols))
            case Array():
                return partial(skip_items, self.skip(writer.items))
            case Map():
                return partial(skip_entries, self.skip(writer.values))
            case Union():
                return partial(read_union, [self.skip(branch) for branch in writer.branches])
            case Record():
                if writer not in self._skips:
                    # Known before it is complete, since a record may contain itself.
                    skips = self._skips[writer] = []
                    skips.extend(self.skip(field.type) for field in writer.fields)
                return partial(skip_record, self._skips[writer])

    def _branch(self, writer: Type, reader: Type) -> Read:
        try:
            return self.resolve(writer, reader)
        except AvroError as error:
            return partial(fail, str(error))

    def _first_match(self, writer: Type, reader: Union) -> Read:
        reasons = []
        for branch in reader.branches:
            try:
                return self.resolve(writer, branch)
            except AvroError as error:
                reasons.append(str(error))
        raise AvroError(reasons[-1] if reasons else "an empty union matches nothing")

    def _record(self, writer: Record, reader: Record) -> Read:
        key = writer, reader
        if key not in self._reads:
            try:
                self._reads[key] = self._resolve_record(writer, reader)
            except AvroError as error:
                self._reads[key] = str(error)
        found = self._reads[key]
        if isinstance(found, str):
            raise AvroError(found)
        return found

    def _resolve_record(self, writer: Record, reader: Record) -> Read:
        written = {field.name for field in writer.fields}
        found = {field.name: field for field in reader.fields}
        for field in reader.fields:
            renamed = field.aliases if field.name not in written else ()
            found |= {alias: field for alias in renamed if alias not in found}
        targets = [found.get(field.name) for field in writer.fields]
        given = {target.name for target in targets if target is not None}
        missing = next((f.name for f in reader.fields if f.name not in given and not f.has_default), None)
        if missing is not None:
            raise AvroError(f"the writer's {unqualified(writer.name)[:80]} has no field {missing}")
        reads = [self._field(field, target) for field, target in zip(writer.fields, targets, strict=True)]
        return partial(read_record, [None if target is None else target.name for target in targets], reads)

    def _field(self, writer: Field, reader: Field | None) -> Read:
        if reader is None:
            return self.skip(writer.type)
        try:
            return self.resolve(writer.type, reader.type)
        except AvroError as error:
            raise AvroError(f"{reader.name}: {error}") from None


def describe(found: Type) -> str:
    """A type in a few words, for a message."""
    match found:
        case Primitive():
            return found.kind
        case Union():
            return "one of " + ", ".join(describe(branch) for branch in found.branches[:5])
        case Fixed() | EnumType() | Record():
            kind = {Fixed: "the fixed", EnumType: "the enum", Record: "the record"}[type(found)]
            return f"{kind} {unqualified(found.name)[:80]}"
        case Array():
            return "an array"
        case Map():
            return "a map"


def _primitive(writer: Primitive, reader: Primitive) -> Read:
    same = writer.kind == reader.kind
    read = _READ[writer.kind] if same else _PROMOTED.get((writer.kind, reader.kind))
    if read is None:
        raise AvroError(f"the writer has {writer.kind}, where {reader.kind} is expected")
    if reader.logical != _TIMESTAMP or writer.logical is None:
        return read
    other = _NO_INSTANT.get((writer.kind, writer.logical))
    if other is not None:
        raise AvroError(f"the writer has {other}, where an instant is expected")
    units = _UNITS_PER_MILLI.get(writer.logical, 1) if same else 1
    return read if units == 1 else lambda data: read(data) // units


def _symbol(symbol: str, reader: EnumType) -> str | None:
    return symbol if symbol in reader.symbols else reader.default
