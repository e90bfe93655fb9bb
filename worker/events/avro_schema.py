"""Avro schemas as they are needed to read data: names resolved, and nothing in them that reading does not need.

fastavro's parser serves for our own schemas. A writer's is a stranger's: defaults, aliases and documentation do not
count for reading, so a mistake in them is none here; size and depth are bounded.
https://avro.apache.org/docs/1.12.0/specification/#schema-declaration
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from worker.events.avro_binary import AvroError

MAX_SCHEMA_CHARS = 250_000
MAX_SCHEMA_DEPTH = 64

PrimitiveKind: TypeAlias = Literal["null", "boolean", "int", "long", "float", "double", "bytes", "string"]
_PRIMITIVES: Mapping[str, PrimitiveKind] = {kind: kind for kind in get_args(PrimitiveKind)}


@dataclass(frozen=True, slots=True)
class Primitive:
    kind: PrimitiveKind
    logical: str | None = None


@dataclass(frozen=True, slots=True)
class Fixed:
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class EnumType:
    name: str
    symbols: tuple[str, ...]
    default: str | None


@dataclass(frozen=True, slots=True)
class Array:
    items: Type


@dataclass(frozen=True, slots=True)
class Map:
    values: Type


@dataclass(frozen=True, slots=True)
class Union:
    branches: tuple[Type, ...]


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    type: Type
    has_default: bool
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """Compared by identity: it may contain itself."""

    name: str
    fields: list[Field] = field(default_factory=list, repr=False)


Type: TypeAlias = Primitive | Fixed | EnumType | Array | Map | Union | Record
Names: TypeAlias = dict[str, Type]
_Named = TypeVar("_Named", Fixed, EnumType, Record)


def unqualified(name: str) -> str:
    return name.rpartition(".")[2]


def parse_type(text: str, names: Names | None = None) -> Type:
    """The type of a schema's JSON text.

    Args:
        names: types that it may refer to, by full name; gets its own added.

    Raises:
        AvroError: it is no schema, or too large a one.
    """
    if len(text) > MAX_SCHEMA_CHARS:
        raise AvroError(f"a schema of {len(text)} characters; at most {MAX_SCHEMA_CHARS} are read")
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AvroError(f"the schema is not JSON: {error}") from None
    return _Parser({} if names is None else names).type(tree, "", 0)


def parse_record(text: str, names: Names | None = None) -> Record:
    """As `parse_type`, for a schema that has to be a record."""
    found = parse_type(text, names)
    if not isinstance(found, Record):
        raise AvroError("the schema is not a record")
    return found


class _Parser:
    def __init__(self, names: Names) -> None:
        self._names = names

    def type(self, tree: object, namespace: str, depth: int) -> Type:
        if depth > MAX_SCHEMA_DEPTH:
            raise AvroError(f"the schema is nested more than {MAX_SCHEMA_DEPTH} deep")
        match tree:
            case str():
                return Primitive(_PRIMITIVES[tree]) if tree in _PRIMITIVES else self._named(tree, namespace)
            case list():
                return self._union(tree, namespace, depth)
            case dict() if isinstance(tree.get("type"), str):
                return self._declared(tree["type"], tree, namespace, depth)
            case dict() if "type" in tree:
                return self.type(tree["type"], namespace, depth + 1)
            case _:
                raise AvroError(f"{_short(tree)} is no Avro type")

    def _named(self, name: str, namespace: str) -> Type:
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        found = self._names.get(full) or self._names.get(name)
        if found is None:
            raise AvroError(f"the type {_short(full)} is not defined")
        return found

    def _union(self, tree: list[object], namespace: str, depth: int) -> Union:
        branches = tuple(self.type(branch, namespace, depth + 1) for branch in tree)
        if any(isinstance(branch, Union) for branch in branches):
            raise AvroError("a union directly within a union")
        return Union(branches)

    def _declared(self, kind: str, tree: dict[str, Any], namespace: str, depth: int) -> Type:
        match kind:
            case "record" | "error":
                return self._record(tree, namespace, depth)
            case "enum":
                symbols, default = tree.get("symbols"), tree.get("default")
                if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
                    raise AvroError("an enum without a list of symbols")
                name, _ = _full_name(tree, namespace)
                return self._define(EnumType(name, tuple(symbols), default if isinstance(default, str) else None))
            case "fixed":
                size = tree.get("size")
                if type(size) is not int or size < 0:
                    raise AvroError(f"{_short(size)} is no size of a fixed type")
                name, _ = _full_name(tree, namespace)
                return self._define(Fixed(name, size))
            case "array":
                return Array(self.type(tree.get("items"), namespace, depth + 1))
            case "map":
                return Map(self.type(tree.get("values"), namespace, depth + 1))
            case _ if kind in _PRIMITIVES:
                logical = tree.get("logicalType")
                return Primitive(_PRIMITIVES[kind], logical if isinstance(logical, str) else None)
            case _:
                return self._named(kind, namespace)

    def _record(self, tree: dict[str, Any], namespace: str, depth: int) -> Record:
        name, inner = _full_name(tree, namespace)
        record = self._define(Record(name))
        fields = tree.get("fields")
        if not isinstance(fields, list):
            raise AvroError(f"the record {_short(name)} has no list of fields")
        seen: set[str] = set()
        for item in fields:
            match item:
                case {"name": str(field_name), "type": of} if field_name and field_name not in seen:
                    seen.add(field_name)
                    aliases = tuple(alias for alias in _list(item.get("aliases")) if isinstance(alias, str))
                    record.fields.append(Field(field_name, self.type(of, inner, depth + 1), "default" in item, aliases))
                case _:
                    raise AvroError(f"the record {_short(name)} has {_short(item)} for a field, or a field twice")
        return record

    def _define(self, found: _Named) -> _Named:
        if found.name in self._names or found.name in _PRIMITIVES:
            raise AvroError(f"the type {_short(found.name)} is defined twice")
        self._names[found.name] = found
        return found


def _full_name(tree: dict[str, Any], namespace: str) -> tuple[str, str]:
    """A named type's full name, and the namespace of names within it."""
    name, own = tree.get("name"), tree.get("namespace")
    own = namespace if own is None else own
    if not isinstance(name, str) or not unqualified(name) or not isinstance(own, str):
        raise AvroError(f"{_short(name)} is no name of a type")
    if "." in name:
        return name, name.rpartition(".")[0]
    return (f"{own}.{name}" if own else name), own


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _short(value: object) -> str:
    return value[:80] if isinstance(value, str) else reprlib.repr(value)
