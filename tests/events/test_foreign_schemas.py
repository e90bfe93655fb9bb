"""What becomes of each kind of foreign schema, field by field: a value of the declared type, or a reason."""

from __future__ import annotations

import json
import struct
import traceback
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.events.declared import undeclared
from tests.events.foreign import record, sized, varint
from worker.errors import UndecodableError
from worker.events.avro_binary import MAX_DEPTH, MAX_STEPS, AvroError
from worker.events.avro_schema import MAX_SCHEMA_CHARS, MAX_SCHEMA_DEPTH
from worker.events.avro_values import MAX_ITEMS
from worker.events.types import GenerationCancellation, GenerationRequest, Lora, Priority
from worker.events.writers import Writer

NEEDED = {"job_id": "string", "girl_id": "string", "user_id": "long", "prompt": "string"}
VALUES = {"job_id": sized(b"j"), "girl_id": sized(b"g"), "user_id": varint(7), "prompt": sized(b"p")}
REQUEST = GenerationRequest(job_id="j", girl_id="g", user_id=7, prompt="p")
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
MILLIS = 1_767_225_600_000


def logical(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "logicalType": name} | more


def enum(name: str, *symbols: str) -> dict[str, Any]:
    return {"type": "enum", "name": name, "symbols": list(symbols)}


def fixed(size: int, name: str = "F", **more: Any) -> dict[str, Any]:
    return {"type": "fixed", "name": name, "size": size} | more


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def schema(**types: Any) -> dict[str, Any]:
    """A writer's request schema: what is needed, and these fields instead or after it."""
    tree: dict[str, Any] = record("GenerationRequest", NEEDED | types, namespace="com.acme")
    return tree


def read(tree: Any, data: bytes) -> GenerationRequest:
    event = Writer(tree if isinstance(tree, str) else json.dumps(tree)).read(data, 0, GenerationRequest)
    assert undeclared(event) == []
    return event


def read_field(name: str, kind: Any, data: bytes) -> Any:
    return getattr(read(schema(**{name: kind}), b"".join((VALUES | {name: data}).values())), name)


DECIMAL = logical("bytes", "decimal", precision=9, scale=2)
UUID_TEXT = "00000000-0000-0000-0000-000000000005"
LORA = record("Lora", {"name": logical("string", "uuid"), "weight": logical("int", "date")})


@pytest.mark.parametrize(
    ("name", "kind", "data", "value"),
    [
        # Logical types that our schema has not: the bytes are what they are without.
        ("job_id", logical("string", "uuid"), sized(UUID_TEXT.encode()), UUID_TEXT),
        ("prompt", logical("string", "uuid"), sized(b"no uuid"), "no uuid"),
        ("prompt", logical("string", "iban"), sized(b"x"), "x"),
        ("prompt", DECIMAL, sized(b"\x41"), "A"),
        ("prompt", logical("bytes", "decimal"), sized(b"x"), "x"),
        ("user_id", logical("int", "date"), varint(20_454), 20_454),
        ("user_id", logical("int", "time-millis"), varint(3), 3),
        ("user_id", logical("long", "time-micros"), varint(3), 3),
        ("user_id", logical("long", "timestamp-millis"), varint(MILLIS), MILLIS),
        ("user_id", logical("long", "local-timestamp-micros"), varint(5), 5),
        ("guidance_scale", logical("int", "date"), varint(7), 7.0),
        ("guidance_scale", logical("long", "timestamp-micros"), varint(7), 7.0),
        ("negative_prompt", ["null", logical("string", "uuid")], b"\x02" + sized(b"x"), "x"),
        ("seed", ["null", logical("int", "date"), "long"], b"\x02" + varint(9), 9),
        ("loras", array(LORA), b"\x02" + sized(b"ink") + varint(2) + b"\x00", (Lora(name="ink", weight=2.0),)),
        # Promotions.
        ("prompt", "bytes", sized("日本".encode()), "日本"),
        ("user_id", "int", varint(-(2**31)), -(2**31)),
        ("guidance_scale", "int", varint(7), 7.0),
        ("guidance_scale", "long", varint(2**53 + 1), 2.0**53),
        ("guidance_scale", "float", struct.pack("<f", 0.5), 0.5),
        ("guidance_scale", {"type": {"type": "double"}}, struct.pack("<d", float("inf")), float("inf")),
        # Unions: the branch that was written has to match, no other.
        ("prompt", ["null", "int", "bytes", "string"], b"\x06" + sized(b"x"), "x"),
        ("prompt", ["string"], b"\x00" + sized(b"x"), "x"),
        ("seed", "null", b"", None),
        ("seed", "long", varint(2**63 - 1), 2**63 - 1),
        # Times: the writer's unit counts where it tells one.
        ("expires_at", logical("long", "timestamp-millis"), varint(MILLIS), NEW_YEAR),
        ("expires_at", logical("long", "timestamp-micros"), varint(MILLIS * 1_000 + 999), NEW_YEAR),
        ("expires_at", logical("long", "timestamp-nanos"), varint(MILLIS * 1_000_000 + 999_999), NEW_YEAR),
        ("expires_at", ["null", logical("long", "timestamp-micros")], b"\x02" + varint(MILLIS * 1_000), NEW_YEAR),
        ("expires_at", "long", varint(MILLIS), NEW_YEAR),
        ("expires_at", logical("long", "unheard-of"), varint(MILLIS), NEW_YEAR),
        ("expires_at", logical("long", "date"), varint(MILLIS), NEW_YEAR),
        ("expires_at", logical("int", "timestamp-micros"), varint(1_000), datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        ("expires_at", "long", varint(-62_135_596_800_000), datetime(1, 1, 1, tzinfo=UTC)),
        # Enums.
        ("priority", enum("Priority", "soon", "high"), varint(1), Priority.HIGH),
        ("priority", enum("org.other.Priority", "soon", "high"), varint(0), Priority.UNKNOWN),
        # Blocks that tell their size in bytes.
        (
            "loras",
            array(LORA),
            varint(-1) + varint(4) + sized(b"a") + varint(2) + b"\x00",
            (Lora(name="a", weight=2.0),),
        ),
        ("high_quality", "boolean", b"\x01", True),
    ],
)
def test_what_matches_becomes_the_declared_type(name: str, kind: Any, data: bytes, value: Any) -> None:
    found = read_field(name, kind, data)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "kind", "data", "reason"),
    [
        ("prompt", DECIMAL, sized(b"\xfe\x2b"), "prompt: text that is not UTF-8"),
        ("prompt", "string", sized(b"\xed\xa0\x80"), "prompt: text that is not UTF-8"),
        ("user_id", fixed(8, logicalType="decimal", precision=9), bytes(8), "the fixed F, where long is expected"),
        ("user_id", "string", sized(b"7"), "string, where long is expected"),
        ("job_id", fixed(16, logicalType="uuid"), bytes(16), "the fixed F, where string is expected"),
        ("job_id", "long", varint(1), "long, where string is expected"),
        ("width", "long", varint(512), "long, where int is expected"),
        ("width", "double", bytes(8), "double, where int is expected"),
        ("width", "int", varint(2**31), "width: 2147483648 is no 32-bit int"),
        ("seed", "long", b"\xff" * 10 + b"\x01", "more than 64 bits"),
        ("seed", "long", b"\xff" * 9 + b"\x7f", "more than 64 bits"),
        ("seed", ["null", "string"], b"\x02\x02x", "seed: the writer has string, where long is expected"),
        ("prompt", ["null", "string"], b"\x00", "prompt: the writer has null, where string is expected"),
        ("prompt", ["null", "string"], b"\x01\x02x", "choice -1 of 2"),
        ("prompt", ["null", "string"], b"\x04\x02x", "choice 2 of 2"),
        ("prompt", [], b"\x00", "choice 0 of 0"),
        ("priority", "string", sized(b"high"), "string, where the enum Priority is expected"),
        ("priority", enum("Lane", "high"), varint(0), "the enum Lane, where the enum Priority is expected"),
        ("priority", enum("Priority", "high"), varint(-1), "choice -1 of 1"),
        ("prompt", enum("E", "x"), varint(0), "the enum E, where string is expected"),
        ("high_quality", "boolean", b"\x02", "the byte 02 is no boolean"),
        ("loras", array({"type": "map", "values": "string"}), b"\x00", "a map, where the record Lora is expected"),
        ("loras", array(record("Adapter", {"name": "string"})), b"\x00", "the record Adapter, where the record Lora"),
        ("loras", array(record("Lora", {"weight": "double"})), b"\x00", "loras: the writer's Lora has no field name"),
        ("expires_at", logical("int", "date"), varint(20_454), "a date, where an instant is expected"),
        ("expires_at", logical("int", "time-millis"), varint(5), "a time of day, where"),
        ("expires_at", logical("long", "time-micros"), varint(5), "a time of day, where"),
        ("expires_at", logical("long", "local-timestamp-millis"), varint(MILLIS), "without its timezone"),
        ("expires_at", logical("long", "local-timestamp-micros"), varint(MILLIS), "without its timezone"),
        ("expires_at", logical("long", "local-timestamp-nanos"), varint(MILLIS), "without its timezone"),
        ("expires_at", ["null", logical("int", "date")], b"\x02" + varint(1), "a date, where"),
        ("expires_at", "string", sized(b"2026-01-01"), "string, where long is expected"),
        ("expires_at", "long", varint(-(2**63)), "expires_at: -9223372036854775808 ms since 1970 is in none"),
        ("expires_at", "long", varint(-62_135_596_800_001), "is in none of the years 1 to 9999"),
        ("expires_at", logical("long", "timestamp-micros"), varint(253_402_300_800_000_000), "is in none of the years"),
        ("expires_at", "long", varint(MILLIS * 1_000), "is in none of the years"),
    ],
)
def test_what_does_not_match_is_undecodable_and_says_where(name: str, kind: Any, data: bytes, reason: str) -> None:
    with pytest.raises(UndecodableError) as caught:
        read_field(name, kind, data)
    assert reason in str(caught.value)


def test_a_date_where_nothing_was_sent_does_not_matter() -> None:
    assert read_field("expires_at", ["null", logical("int", "date")], b"\x00") is None


WHOLE = b"".join(VALUES.values())
CHAIN = record("Chain", {"next": ["null", "Chain"]})


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("null", b""),
        (["null", "GenerationRequest"], b"\x00"),
        (["null", "GenerationRequest"], b"\x02" + WHOLE + b"\x00"),
        (array("GenerationRequest"), b"\x02" + WHOLE + b"\x00" + b"\x00"),
        (CHAIN, b"\x02" * (MAX_DEPTH // 2 - 2) + b"\x00"),
        (array("null"), varint(1_000) + b"\x00"),
        # A block that says that it has no bytes is over at once, however many items it claims.
        (array("null"), varint(-(2**63)) + varint(0) + b"\x00"),
        (array(fixed(0)), varint(1_000) + b"\x00"),
        (fixed(12, logicalType="duration"), bytes(12)),
        (logical("string", "uuid"), sized(b"no uuid")),
        (logical("bytes", "decimal"), sized(b"\xff")),
        ({"type": "map", "values": array(enum("E", "a"))}, varint(-1) + varint(5) + b"\x02a\x02\x00\x00" + b"\x00"),
        ({"type": "error", "name": "E", "fields": [{"name": "a", "type": "float"}]}, bytes(4)),
        (array("long"), varint(MAX_ITEMS + 1) + b"\x00" * (MAX_ITEMS + 1) + b"\x00"),
        (record("Pair", {"a": fixed(1, "org.F"), "b": "org.F", "c": {"type": "org.F"}}), b"abc"),
    ],
)
def test_fields_that_we_have_not_are_passed_over(kind: Any, data: bytes) -> None:
    assert read(schema(extra=kind), WHOLE + data) == REQUEST
    with pytest.raises(UndecodableError, match="1 bytes follow"):
        read(schema(extra=kind), WHOLE + data + b"\x00")


def doubling(levels: int) -> Any:
    """Records of two records each: no bytes, and 2**levels values."""
    kind: Any = "null"
    for level in range(levels):
        kind = record(f"N{level}", {"a": kind, "b": f"N{level - 1}" if level else "null"})
    return kind


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (array("null"), varint(2**60) + b"\x00", f"more than {MAX_STEPS} values"),
        (array(record("Empty", {})), varint(2**40) + b"\x00", f"more than {MAX_STEPS} values"),
        (array(fixed(0)), varint(2**40) + b"\x00", f"more than {MAX_STEPS} values"),
        ({"type": "map", "values": "null"}, varint(2**40) + b"\x00" * 100, "ends within a number"),
        (doubling(40), b"", f"more than {MAX_STEPS} values"),
        (record("Endless", {"again": "Endless"}), b"", f"more than {MAX_DEPTH} deep"),
        (CHAIN, b"\x02" * 100_000, f"more than {MAX_DEPTH} deep"),
        (fixed(2**62), b"", "bytes wanted"),
        ("string", varint(2**62), "bytes wanted"),
        ("string", varint(-1), "-1 bytes wanted"),
        ("bytes", varint(-(2**63)), "bytes wanted"),
        (array("int"), varint(-1) + varint(-1), "-1 bytes wanted"),
        (array("int"), varint(-1) + varint(2**40), "bytes wanted"),
        ("int", b"\x80" * 3, "ends within a number"),
        (enum("E"), b"\x00", "choice 0 of 0"),
    ],
)
def test_endless_work_and_empty_claims_end_soon(kind: Any, data: bytes, reason: str) -> None:
    with pytest.raises(UndecodableError, match=reason):
        read(schema(extra=kind), WHOLE + data)


def test_more_items_than_anyone_sends_are_not_kept() -> None:
    kind = array(record("Lora", {"name": "string"}))
    fits = varint(MAX_ITEMS) + b"\x00" * MAX_ITEMS + b"\x00"
    assert len(read(schema(loras=kind), WHOLE + fits).loras) == MAX_ITEMS
    with pytest.raises(UndecodableError, match=f"loras: more than {MAX_ITEMS} items"):
        read(schema(loras=kind), WHOLE + varint(MAX_ITEMS + 1) + b"\x00" * (MAX_ITEMS + 2))


def nested(levels: int) -> Any:
    kind: Any = "int"
    for _ in range(levels):
        kind = array(kind)
    return kind


def changed(**more: Any) -> dict[str, Any]:
    return schema() | more


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5_000, "not JSON"),
        ('"string"', "not a record"),
        ("7", "7 is no Avro type"),
        ('"GenerationRequest"', "GenerationRequest is not defined"),
        ('syntax = "proto3"; message M {}', "not JSON"),
        ('{"type": "object", "properties": {}}', "the type object is not defined"),
        ('{"$schema": "http://json-schema.org/draft-07/schema#"}', "is no Avro type"),
        ('{"x": ' + "[" * 500 + "]" * 500 + "}", "is no Avro type"),
        (json.dumps(schema(extra=nested(MAX_SCHEMA_DEPTH))), f"more than {MAX_SCHEMA_DEPTH} deep"),
        (json.dumps(schema() | {"doc": "x" * MAX_SCHEMA_CHARS}), f"at most {MAX_SCHEMA_CHARS}"),
        (json.dumps(changed(fields=None)), "has no list of fields"),
        (json.dumps(changed(fields=[{"name": "a", "type": "int"}] * 2)), "or a field twice"),
        (json.dumps(changed(fields=[{"name": 5, "type": "int"}])), "for a field"),
        (json.dumps(changed(fields=["job_id"])), "for a field"),
        (json.dumps(changed(name=None)), "is no name of a type"),
        (json.dumps(changed(name="a.")), "is no name of a type"),
        (json.dumps(changed(namespace=5)), "is no name of a type"),
        (json.dumps(changed(name="int", namespace="")), "defined twice"),
        (json.dumps(schema(a=fixed(1), b=fixed(2))), "the type com.acme.F is defined twice"),
        (json.dumps(schema(a=fixed(-1))), "-1 is no size"),
        (json.dumps(schema(a=fixed(True))), "True is no size"),
        (json.dumps(schema(a={"type": "fixed", "name": "F", "size": "3"})), "3 is no size"),
        (json.dumps(schema(a={"type": "enum", "name": "E", "symbols": [1]})), "without a list of symbols"),
        (json.dumps(schema(a=["null", ["int"]])), "a union directly within a union"),
        (json.dumps(schema(a={"type": "array"})), "None is no Avro type"),
        (json.dumps(schema(a="Missing")), "com.acme.Missing is not defined"),
    ],
)
def test_what_is_no_schema_of_a_record_is_refused(text: str, reason: str) -> None:
    with pytest.raises(AvroError) as caught:
        Writer(text)
    assert reason in str(caught.value)


def test_what_does_not_count_for_reading_may_be_wrong() -> None:
    tree = schema()
    tree["fields"][3] |= {"default": 7, "aliases": 5, "order": "sideways"}
    tree |= {"aliases": ["x"], "doc": 5, "connect.version": 1}
    assert read(tree, WHOLE) == REQUEST


@pytest.mark.parametrize("namespace", [None, "", "com.acme"])
def test_names_are_found_in_their_namespace_and_in_none(namespace: str | None) -> None:
    inner = {"type": "fixed", "name": "F", "size": 1, "namespace": "org.other"}
    tree = schema(a=inner, b="org.other.F", c={"type": "fixed", "name": "G", "size": 1}, d="G")
    assert read(tree | {"namespace": namespace}, WHOLE + b"abcd") == REQUEST


def test_a_chain_of_types_that_refer_to_each_other_is_refused_not_followed() -> None:
    chain: list[Any] = ["string", record("R0", {})]
    chain += [record(f"R{n}", {"f": f"R{n - 1}"}) for n in range(1, 2_000)]
    tree = record("GenerationRequest", NEEDED | {"prompt": chain, "extra": "R1999"})
    with pytest.raises(UndecodableError, match="too deeply"):
        read(tree, VALUES["job_id"] + VALUES["girl_id"] + VALUES["user_id"] + b"\x00\x02p")


@pytest.mark.parametrize("left_out", NEEDED)
def test_a_writer_without_a_needed_field_is_undecodable(left_out: str) -> None:
    tree = record("GenerationRequest", {name: kind for name, kind in NEEDED.items() if name != left_out})
    data = b"".join(value for name, value in VALUES.items() if name != left_out)
    with pytest.raises(UndecodableError, match=f"has no field {left_out}"):
        read(tree, data)


def test_a_reason_is_one_printable_line_of_bounded_length() -> None:
    tree = record("Generation\nRequest\u202e" + "x" * 9_000, {"a\x1b[31m" * 900: "int"})
    with pytest.raises(UndecodableError) as caught:
        Writer(json.dumps(tree)).read(b"\x00", 0, GenerationRequest)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) == 500


def test_a_schema_that_never_matches_holds_on_to_no_record() -> None:
    writer = Writer(json.dumps(schema(user_id="string")))
    depths = []
    for _ in range(3):
        with pytest.raises(UndecodableError) as caught:
            writer.read(b"\x00", 0, GenerationRequest)
        depths.append(
            len(list(traceback.walk_tb(caught.value.__cause__.__traceback__))) if caught.value.__cause__ else 0
        )
    # An exception that is raised again keeps each of its tracebacks, and the records in them.
    assert depths == [1, 1, 1]


def test_a_cancellation_is_read_by_the_same_rules() -> None:
    when = logical("long", "timestamp-micros")
    tree = record("GenerationCancellation", {"job_id": logical("string", "uuid"), "requested_at": when})
    event = Writer(json.dumps(tree)).event(sized(UUID_TEXT.encode()) + varint(MILLIS * 1_000), 0)
    assert event == GenerationCancellation(job_id=UUID_TEXT, requested_at=NEW_YEAR)
    assert undeclared(event) == []
