"""The current schemas are fully compatible with every released version."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import avro.schema
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

from worker.events.schemas import current, file_stem, schema_dir
from worker.events.types import EVENT_TYPES, Event

Change = Callable[[list[dict[str, Any]]], None]


def incompatibilities(one: str, other: str) -> list[str]:
    """What keeps either schema from reading what the other wrote; empty when fully compatible."""
    parsed = (avro.schema.parse(one), avro.schema.parse(other))
    found: list[str] = []
    for reader, writer in (parsed, parsed[::-1]):
        checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]  # avro's own
        result = checker.get_compatibility(reader, writer)
        if result.compatibility is not SchemaCompatibilityType.compatible:
            found += [str(message) for message in result.messages]
    return found


@pytest.mark.parametrize("cls", EVENT_TYPES)
def test_current_schema_is_compatible_with_every_released_version(cls: type[Event]) -> None:
    released = sorted((schema_dir() / "history" / file_stem(cls)).glob("v*.avsc"))
    assert released
    for path in released:
        assert incompatibilities(current()[cls].text, path.read_text("utf-8")) == [], path.name


def without_job_id(fields: list[dict[str, Any]]) -> None:
    del fields[0]


def with_a_field_without_default(fields: list[dict[str, Any]]) -> None:
    fields.append({"name": "added", "type": "string"})


def with_a_renamed_field(fields: list[dict[str, Any]]) -> None:
    fields[3]["name"] = "text"


def with_another_type(fields: list[dict[str, Any]]) -> None:
    fields[0]["type"] = "long"


def with_a_symbol_less_and_no_fallback(fields: list[dict[str, Any]]) -> None:
    enum = next(f for f in fields if f["name"] == "priority")["type"]
    enum["symbols"].remove("urgent")
    del enum["default"]


@pytest.mark.parametrize(
    "change",
    [
        without_job_id,
        with_a_field_without_default,
        with_a_renamed_field,
        with_another_type,
        with_a_symbol_less_and_no_fallback,
    ],
)
def test_the_gate_stops_an_incompatible_change(change: Change) -> None:
    released = current()[EVENT_TYPES[0]].text
    changed = json.loads(released)
    change(changed["fields"])
    assert incompatibilities(json.dumps(changed), released)


def test_the_gate_lets_a_compatible_change_pass() -> None:
    released = current()[EVENT_TYPES[0]].text
    changed = json.loads(released)
    changed["fields"].append({"name": "added", "type": "string", "default": ""})
    next(f for f in changed["fields"] if f["name"] == "priority")["type"]["symbols"].append("immediate")
    del changed["fields"][4]
    assert incompatibilities(json.dumps(changed), released) == []
