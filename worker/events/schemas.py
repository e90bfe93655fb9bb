"""The Avro schemas: finding, parsing and fingerprinting them.

`schemas/*.avsc` is the source of truth; in an installed wheel it lies in `worker/_schemas`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

from worker.events.types import EVENT_TYPES, Event

NAMESPACE = "imagegen.events.v1"

AvroType: TypeAlias = str | list[Any] | dict[str, Any]


class UnboundedSchema(ValueError):
    """A schema that lets a few bytes claim endless work."""


@dataclass(frozen=True, slots=True)
class Schema:
    """One parsed record schema.

    `name` is the record's unqualified name, `text` the JSON it came from, `fingerprint`
    the 8 bytes of a single-object header, in the header's order.
    """

    name: str
    text: str
    parsed: dict[str, Any]
    fingerprint: bytes


def schema_dir() -> Path:
    """The folder of the schemas, in a wheel or in a source checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_schemas"
    return installed if installed.is_dir() else package.parent / "schemas"


def file_stem(cls: type[Event]) -> str:
    """`GenerationRequest` is in `generation_request.avsc`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


def parse(text: str, named: dict[str, dict[str, Any]] | None = None) -> Schema:
    """Parse a record schema; `named` holds parsed types that it refers to, and gets its own added.

    Raises:
        UnboundedSchema: it is recursive, or an array's items may take no bytes.
        ValueError, TypeError, KeyError, fastavro.schema.SchemaParseException: it is no record schema.
    """
    named = {} if named is None else named
    parsed = parse_schema(json.loads(text), named_schemas=named)
    if not isinstance(parsed, dict) or parsed.get("type") != "record":
        raise ValueError("the schema is not a record")
    least_bytes(parsed, named)
    digits = fingerprint(to_parsing_canonical_form(parsed), "CRC-64-AVRO")
    return Schema(parsed["name"].rpartition(".")[2], text, parsed, bytes.fromhex(digits))


def least_bytes(schema: AvroType, named: Mapping[str, AvroType], inside: tuple[str, ...] = ()) -> int:
    """Fewest bytes that a datum of `schema` takes.

    Raises:
        UnboundedSchema: fastavro would crash the process on a deep datum of a recursive type,
            and would loop 2**60 times over as many items of no bytes.
    """
    match schema:
        case str() if schema in named:
            return least_bytes(named[schema], named, inside)
        case "null":
            return 0
        case str():
            return _PRIMITIVE_BYTES.get(schema, 1)
        case list():
            return 1 + min((least_bytes(branch, named, inside) for branch in schema), default=0)
        case {"type": "record", "name": name}:
            if name in inside:
                raise UnboundedSchema(f"the type {name} contains itself")
            return sum(least_bytes(f["type"], named, (*inside, name)) for f in schema["fields"])
        case {"type": "array"}:
            if least_bytes(schema["items"], named, inside) == 0:
                raise UnboundedSchema("it has an array whose items take no bytes")
            return 1
        case {"type": "map"}:
            least_bytes(schema["values"], named, inside)
            return 1
        case {"type": "fixed"}:
            return int(schema["size"])
        case {"type": "enum"}:
            return 1
        case _:
            return least_bytes(schema["type"], named, inside)


_PRIMITIVE_BYTES = {"float": 4, "double": 8}


@cache
def current() -> Mapping[type, Schema]:
    """Event type -> the schema that this version writes and reads."""
    folder = schema_dir()
    return {cls: parse((folder / f"{file_stem(cls)}.avsc").read_text("utf-8")) for cls in EVENT_TYPES}


@cache
def released() -> tuple[Schema, ...]:
    """Every version that was ever released."""
    return tuple(parse(path.read_text("utf-8")) for path in sorted(schema_dir().glob("history/*/*.avsc")))
