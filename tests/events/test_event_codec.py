"""Single-object encoding: compared with plain fastavro, and given bytes that are not an event."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.schema import fingerprint, to_parsing_canonical_form
from hypothesis import given
from pydantic import SecretStr

from tests.events.foreign import varint
from tests.events.newer import newer_request_body, newer_request_schema
from tests.events.strategies import events, sample
from worker.errors import SettingsError, UndecodableError
from worker.events.codec import make_codec
from worker.events.schemas import parse, schema_dir
from worker.events.single_object import MARKER, SingleObjectCodec
from worker.events.types import (
    Event,
    GenerationCancellation,
    GenerationRequest,
    GenerationStatus,
    Lora,
    Priority,
    timestamp,
)
from worker.settings import Settings

CODEC = SingleObjectCodec()
TOPIC = "generation.requests.normal"
REQUEST = GenerationRequest(job_id="job-1", girl_id="anna", user_id=7, prompt="a portrait")
VALUE = CODEC.encode(REQUEST, topic=TOPIC)[0]


def decode(data: bytes | None, expected: Any = GenerationRequest, codec: SingleObjectCodec = CODEC) -> Any:
    return codec.decode(data, topic=TOPIC, headers=None, expected=expected)


def plain_schema() -> Any:
    return parse_schema(json.loads((schema_dir() / "generation_request.avsc").read_text("utf-8")))


def plain_header(schema: Any) -> bytes:
    return b"\xc3\x01" + bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


@given(events)
def test_every_event_round_trips(event: Event) -> None:
    data, headers = CODEC.encode(event, topic=TOPIC)
    assert headers == ()
    assert decode(data, type(event)) == event
    assert CODEC.decode_any(data, topic=None, headers=[]) == event


def test_bytes_of_plain_fastavro_are_read() -> None:
    buffer = BytesIO()
    schema = plain_schema()
    record = {
        "job_id": "j", "girl_id": "g", "user_id": 2**40, "prompt": "日本", "seed": 5,
        "loras": [{"name": "ink"}], "expires_at": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    schemaless_writer(buffer, schema, record)
    expected = GenerationRequest(
        job_id="j", girl_id="g", user_id=2**40, prompt="日本", seed=5,
        loras=(Lora(name="ink"),), expires_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    assert decode(plain_header(schema) + buffer.getvalue()) == expected


def test_plain_fastavro_reads_our_bytes() -> None:
    schema = plain_schema()
    assert VALUE.startswith(plain_header(schema))
    record = schemaless_reader(BytesIO(VALUE[10:]), schema, None)
    assert isinstance(record, dict)
    assert record["prompt"] == "a portrait"
    assert record["priority"] == "normal"
    assert record["guidance_scale"] == 7.5


def test_the_header_is_the_fingerprint_in_little_endian_order() -> None:
    # CRC-64-AVRO of the canonical form, computed here by the specification's own algorithm.
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xC15D213AA4D7A795 if crc & 1 else 0)
        table.append(crc)
    crc = 0xC15D213AA4D7A795
    for byte in to_parsing_canonical_form(plain_schema()).encode():
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    assert VALUE[2:10] == crc.to_bytes(8, "little")


def test_a_newer_writer_is_read_once_its_schema_is_known() -> None:
    newer = newer_request_schema()
    data = MARKER + parse(newer).fingerprint + newer_request_body()
    with pytest.raises(UndecodableError, match="unknown schema fingerprint"):
        decode(data)
    event = decode(data, codec=SingleObjectCodec(extra_schemas=[newer]))
    assert (event.job_id, event.prompt, event.priority) == ("job-1", "a portrait", Priority.UNKNOWN)


def test_a_truncated_field_that_is_only_skipped_is_an_error_too() -> None:
    newer = newer_request_schema()
    data = MARKER + parse(newer).fingerprint + newer_request_body()
    with pytest.raises(UndecodableError):
        decode(data[:-3], codec=SingleObjectCodec(extra_schemas=[newer]))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "null"),
        (b"", "empty"),
        (b"{}", "starts with 7b 7d"),
        (b"\xc3", "starts with c3"),
        (b"\xc3\x01", "unknown schema fingerprint none"),
        (b"\xc3\x01" + bytes(8), "unknown schema fingerprint"),
        (b"\x00\x00\x00\x00\x01abc", "SCHEMA_REGISTRY_URL"),
        (VALUE[:10], "not a valid GenerationRequest"),
        (VALUE[:-1], "not a valid GenerationRequest"),
        (VALUE + b"\x00", "1 bytes follow"),
    ],
)
def test_bytes_that_are_no_event_say_why(data: bytes | None, reason: str) -> None:
    with pytest.raises(UndecodableError, match=reason):
        decode(data)


def test_a_header_carried_id_without_a_registry_says_what_to_set() -> None:
    headers = [("__value_schema_id", b"\x01" + bytes(16))]
    with pytest.raises(UndecodableError, match="SCHEMA_REGISTRY_URL"):
        CODEC.decode(VALUE[10:], topic=TOPIC, headers=headers, expected=GenerationRequest)


def test_another_event_than_expected_is_refused() -> None:
    data, _ = CODEC.encode(sample(GenerationStatus), topic="generation.status")
    with pytest.raises(UndecodableError, match="a GenerationStatus, where a GenerationRequest"):
        decode(data)


def test_a_known_schema_that_is_no_event_is_refused() -> None:
    other = parse('{"type": "record", "name": "Other", "fields": [{"name": "a", "type": "string"}]}')
    codec = SingleObjectCodec(extra_schemas=[other.text])
    with pytest.raises(UndecodableError, match="Other is none of this service's events"):
        codec.decode_any(MARKER + other.fingerprint + b"\x02a", topic=None, headers=None)


@pytest.mark.parametrize("claim", [2**20, 2**31, 2**40, 2**60, 2**63 - 1, -1, -(2**40), -(2**63)])
def test_huge_claims_end_at_once(claim: int) -> None:
    start = VALUE[:10]
    with pytest.raises(UndecodableError):
        decode(start + varint(claim) + b"abc")
    loras = VALUE.index(b"DPMSolverMultistepScheduler") + len(b"DPMSolverMultistepScheduler")
    with pytest.raises(UndecodableError):
        decode(VALUE[:loras] + varint(claim) + VALUE[loras + 1 :])


def test_a_time_beyond_any_calendar_is_undecodable() -> None:
    # The usual mistake: microseconds where milliseconds belong.
    millis, micros = varint(1_700_000_000_123), varint(1_700_000_000_000_000)
    value = CODEC.encode(replace(REQUEST, requested_at=timestamp(1_700_000_000.123)), topic=TOPIC)[0]
    assert value.count(b"\x02" + millis) == 1
    with pytest.raises(UndecodableError, match="requested_at: 1700000000000000 ms since 1970 is in none of the years"):
        decode(value.replace(millis, micros))


def test_invalid_utf8_is_undecodable() -> None:
    with pytest.raises(UndecodableError, match="job_id: text that is not UTF-8"):
        decode(VALUE.replace(b"job-1", b"job\xff1"))


def test_without_a_registry_the_factory_makes_a_single_object_codec() -> None:
    codec = make_codec(Settings(_env_file=None, schema_registry_url=None))
    assert isinstance(codec, SingleObjectCodec)
    cancellation = GenerationCancellation(job_id="a")
    assert codec.encode(cancellation, topic="generation.cancellations")[0].startswith(MARKER)


def test_an_unusable_registry_setting_stops_the_start_without_its_value() -> None:
    secret = SecretStr("only-a-name")
    settings = Settings(_env_file=None, schema_registry_url="http://r", schema_registry_user_info=secret)
    with pytest.raises(SettingsError, match="SCHEMA_REGISTRY_URL") as caught:
        make_codec(settings)
    assert "only-a-name" not in str(caught.value)
