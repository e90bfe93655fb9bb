"""The dataclasses match the schemas, field by field."""

from __future__ import annotations

import dataclasses
import json
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import given

from tests.events.declared import undeclared
from tests.events.strategies import NOW, events, sample
from worker.errors import ErrorCode
from worker.events.conversion import from_record, to_record
from worker.events.schemas import current, parse, schema_dir
from worker.events.types import (
    EVENT_TYPES,
    Event,
    GenerationCompleted,
    GenerationRequest,
    JobStatus,
    Lora,
    OutputFormat,
    Priority,
    timestamp,
)

NO_DEFAULT = object()


def raw(cls: type[Event]) -> dict[str, Any]:
    """The schema as written: what fastavro parses has marks of its own added."""
    schema: dict[str, Any] = json.loads(current()[cls].text)
    return schema


def schema_default(field: dict[str, Any]) -> Any:
    return field.get("default", NO_DEFAULT)


def class_default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    if field.default is dataclasses.MISSING:
        return NO_DEFAULT
    plain = field.default.value if isinstance(field.default, Enum) else field.default
    return list(plain) if isinstance(plain, tuple) else plain


def named_types(node: Any) -> list[dict[str, Any]]:
    """Every record and enum of a schema, itself included."""
    if isinstance(node, list):
        return [found for item in node for found in named_types(item)]
    if not isinstance(node, dict):
        return []
    own = [node] if node.get("type") in ("record", "enum") else []
    return own + [found for value in node.values() for found in named_types(value)]


@pytest.mark.parametrize("cls", EVENT_TYPES)
def test_fields_are_those_of_the_schema_in_name_order_and_default(cls: type[Event]) -> None:
    schema = raw(cls)
    expected = [(field["name"], schema_default(field)) for field in schema["fields"]]
    assert [(f.name, class_default(f)) for f in dataclasses.fields(cls)] == expected


def test_lora_is_the_nested_record() -> None:
    lora = next(t for t in named_types(raw(GenerationRequest)) if t["name"] == "Lora")
    expected = [(field["name"], schema_default(field)) for field in lora["fields"]]
    assert [(f.name, class_default(f)) for f in dataclasses.fields(Lora)] == expected


@pytest.mark.parametrize("enum", [Priority, OutputFormat, JobStatus, ErrorCode])
def test_enums_have_the_symbols_of_the_schema(enum: type[Enum]) -> None:
    named = [t for other in EVENT_TYPES for t in named_types(raw(other))]
    found = [t for t in named if t["name"] == enum.__name__]
    assert found
    assert all(t["symbols"] == [member.value for member in enum] for t in found)


@pytest.mark.parametrize("cls", EVENT_TYPES)
def test_every_record_enum_and_field_has_a_doc(cls: type[Event]) -> None:
    for named in named_types(raw(cls)):
        assert named["doc"].strip(), named["name"]
        for field in named.get("fields", ()):
            assert field["doc"].strip(), field["name"]


@pytest.mark.parametrize("cls", EVENT_TYPES)
def test_every_enum_falls_back_to_unknown(cls: type[Event]) -> None:
    enums = [t for t in named_types(raw(cls)) if t["type"] == "enum"]
    assert all(t["default"] == "unknown" and t["symbols"][0] == "unknown" for t in enums)


def test_only_four_fields_of_a_request_are_required() -> None:
    fields = raw(GenerationRequest)["fields"]
    assert [f["name"] for f in fields if "default" not in f] == ["job_id", "girl_id", "user_id", "prompt"]


@pytest.mark.parametrize("cls", EVENT_TYPES)
def test_shared_types_are_written_the_same_everywhere(cls: type[Event]) -> None:
    everywhere = [t for other in EVENT_TYPES for t in named_types(raw(other))]
    for mine in named_types(raw(cls)):
        assert all(other == mine for other in everywhere if other["name"] == mine["name"])


@given(events)
def test_record_conversion_round_trips(event: Event) -> None:
    assert from_record(type(event), to_record(event)) == event


def test_from_record_takes_defaults_for_absent_fields_and_ignores_further_ones() -> None:
    record = {"job_id": "a", "girl_id": "b", "user_id": 1, "prompt": "c", "colour": "red"}
    expected = GenerationRequest(job_id="a", girl_id="b", user_id=1, prompt="c")
    assert from_record(GenerationRequest, record) == expected


def test_from_record_copies_maps() -> None:
    record = to_record(sample(GenerationCompleted))
    event = from_record(GenerationCompleted, record)
    record["lora_fingerprints"]["later"] = "x"
    assert event.lora_fingerprints == {}


def test_times_may_be_milliseconds_in_a_record() -> None:
    record = to_record(sample(GenerationRequest)) | {"requested_at": 1_700_000_000_123}
    expected = datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)
    assert from_record(GenerationRequest, record).requested_at == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("job_id", uuid.UUID(int=1)),
        ("job_id", Priority.HIGH),
        ("job_id", None),
        ("prompt", b"bytes"),
        ("prompt", Decimal(1)),
        ("user_id", True),
        ("user_id", 1.0),
        ("user_id", date(2026, 1, 1)),
        ("guidance_scale", Decimal(1)),
        ("guidance_scale", "7.5"),
        ("high_quality", 1),
        ("priority", 1),
        ("priority", None),
        ("loras", [{"name": 5}]),
        ("loras", ["ink"]),
        ("loras", ({"name": "ink"},)),
        ("loras", "ink"),
        ("expires_at", NOW.replace(tzinfo=None)),
        ("expires_at", date(2026, 1, 1)),
        ("expires_at", 1.5),
        ("expires_at", 2**62),
    ],
)
def test_from_record_takes_no_other_type_than_the_declared_one(name: str, value: object) -> None:
    record = to_record(sample(GenerationRequest)) | {name: value}
    with pytest.raises(ValueError, match=f"^{name}: "):
        from_record(GenerationRequest, record)


@pytest.mark.parametrize("value", [{1: "x"}, {"x": 1}, [("x", "y")]])
def test_from_record_looks_into_maps(value: object) -> None:
    record = to_record(sample(GenerationCompleted)) | {"lora_fingerprints": value}
    with pytest.raises(ValueError, match=r"^lora_fingerprints: "):
        from_record(GenerationCompleted, record)


def test_from_record_makes_floats_of_integers_and_utc_of_other_zones() -> None:
    east = NOW.astimezone(timezone(timedelta(hours=9)))
    record = to_record(sample(GenerationRequest)) | {"guidance_scale": 7, "expires_at": east}
    event = from_record(GenerationRequest, record)
    assert undeclared(event) == []
    assert (event.guidance_scale, event.expires_at) == (7.0, NOW)


def test_a_time_without_timezone_is_refused() -> None:
    with pytest.raises(ValueError, match="timezone"):
        to_record(sample(GenerationRequest, requested_at=NOW.replace(tzinfo=None)))


def test_timestamp_has_millisecond_precision() -> None:
    assert timestamp(1_700_000_000.1239) == datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)


def test_events_are_hashable() -> None:
    assert len({sample(cls) for cls in EVENT_TYPES}) == len(EVENT_TYPES)


def test_schemas_in_the_checkout_are_the_ones_that_are_loaded() -> None:
    for path in schema_dir().glob("*.avsc"):
        schema = parse(path.read_text("utf-8"))
        assert schema.fingerprint in {known.fingerprint for known in current().values()}
