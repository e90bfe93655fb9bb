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
from typing import Any

from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

from worker.events.types import EVENT_TYPES, Event

NAMESPACE = "imagegen.events.v1"


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


def parse(text: str) -> Schema:
    """Parse a record schema of our own, or one that an operator trusts; `writers.Writer` reads a stranger's.

    Raises:
        ValueError, TypeError, KeyError, fastavro.schema.SchemaParseException: it is no record schema.
    """
    parsed = parse_schema(json.loads(text))
    if not isinstance(parsed, dict) or parsed.get("type") != "record":
        raise ValueError("the schema is not a record")
    digits = fingerprint(to_parsing_canonical_form(parsed), "CRC-64-AVRO")
    return Schema(parsed["name"].rpartition(".")[2], text, parsed, bytes.fromhex(digits))


@cache
def current() -> Mapping[type, Schema]:
    """Event type -> the schema that this version writes and reads."""
    folder = schema_dir()
    return {cls: parse((folder / f"{file_stem(cls)}.avsc").read_text("utf-8")) for cls in EVENT_TYPES}


@cache
def released() -> tuple[Schema, ...]:
    """Every version that was ever released."""
    return tuple(parse(path.read_text("utf-8")) for path in sorted(schema_dir().glob("history/*/*.avsc")))
