"""Reading a record that is no event as far as it goes."""

from __future__ import annotations

import io
import json
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from fastavro import parse_schema, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

from tests.events.strategies import sample
from tests.registry import RegistryServer
from worker.events.confluent import ConfluentCodec
from worker.events.partial import read_partly
from worker.events.registry import Registry
from worker.events.single_object import SingleObjectCodec
from worker.events.types import EVENT_TYPES, GenerationRequest

CODEC = SingleObjectCodec()


def encoded(event: Any) -> bytes:
    return CODEC.encode(event, topic="t")[0]


def read(data: bytes | None, headers: Any = None) -> Any:
    return read_partly(CODEC, data, topic="t", headers=headers)


def test_every_event_is_read_whole() -> None:
    for cls in EVENT_TYPES:
        found = read(encoded(sample(cls)))
        assert (found.event, found.schema, found.error) == (sample(cls), cls.__name__, None)
        json.dumps(dict(found.fields), allow_nan=False)


def test_a_record_that_is_cut_is_read_up_to_there() -> None:
    request = sample(GenerationRequest, job_id="job-1", girl_id="luna", prompt="a lighthouse")
    data = encoded(request)
    found = read(data[: data.index(b"a lighthouse") + 5])
    assert found.event is None
    assert found.fields["job_id"] == "job-1"
    assert found.fields["girl_id"] == "luna"
    assert "prompt" not in found.fields
    assert found.stopped_at == "prompt"
    assert found.error is not None


def test_what_follows_the_record_is_an_error_of_a_whole_record() -> None:
    found = read(encoded(sample(GenerationRequest)) + b"\x00")
    assert found.stopped_at is None
    assert "1 bytes follow" in found.error
    assert found.fields["prompt"] == sample(GenerationRequest).prompt


def test_times_are_texts_that_can_be_sent_again() -> None:
    moment = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
    fields = read(encoded(sample(GenerationRequest, requested_at=moment))).fields
    assert datetime.fromisoformat(fields["requested_at"]) == moment


def test_json_in_place_of_avro() -> None:
    found = read(b' {"job_id": "j", "prompt": 7}')
    assert (found.framing, found.fields) == ("json", {"job_id": "j", "prompt": 7})
    assert "neither Avro" in found.error
    assert read(b'{"cut": ').fields == read(b"[" * 100_000).fields == read(b"[1]").fields == {}


def test_what_it_is_otherwise() -> None:
    for data, framing in (
        (None, "null"), (b"", "empty"), (b"hello", "text"), (b"\xff\xfe\x00", "bytes"), (b"\xc3\x01", "single-object"),
        (b"\x00\x00\x00\x00\x07abc", "confluent"),
    ):  # fmt: skip
        found = read(data)
        assert (found.framing, found.fields) == (framing, {})
        assert found.error
    assert read(b"abc", [("__value_schema_id", b"\x00\x00\x00\x00\x07")]).framing == "confluent"


def test_a_writer_of_another_record_is_read_by_its_own_schema() -> None:
    """Only the registry knows it; every kind of type is in it, and it refers to itself."""
    schema: dict[str, Any] = {
        "type": "record",
        "name": "Order",
        "fields": [
            {"name": "id", "type": {"type": "fixed", "name": "Id", "size": 2}},
            {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
            {"name": "tags", "type": {"type": "map", "values": "boolean"}},
            {"name": "numbers", "type": {"type": "array", "items": "double"}},
            {"name": "raw", "type": "bytes"},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "child", "type": ["null", "Order"]},
        ],
    }
    inner = {"id": b"ab", "kind": "B", "tags": {"x": True}, "numbers": [0.5, float("nan")], "raw": b"\xff", "at": 1,
             "child": None}  # fmt: skip
    buffer = io.BytesIO()
    schemaless_writer(buffer, parse_schema(schema), {**inner, "child": inner})
    with RegistryServer() as server, closing(ConfluentCodec(Registry(server.url))) as codec:
        number, _ = server.add("t-value", json.dumps(schema))
        data = b"\x00" + number.to_bytes(4, "big") + buffer.getvalue()
        found = read_partly(codec, data, topic="t", headers=None)
        away = read_partly(codec, b"\x00\x00\x00\x00\x63" + buffer.getvalue(), topic="t", headers=None)
    expected = {"id": "ab", "kind": "B", "tags": {"x": True}, "numbers": [0.5, "nan"], "raw": "ff",
                "at": "1970-01-01T00:00:00.000+00:00", "child": None}  # fmt: skip
    assert found.fields == {**expected, "child": expected}
    assert (found.schema, found.event) == ("Order", None)
    assert "none of this service's events" in str(found.error)
    assert (away.schema, away.fields) == (None, {})


@given(st.binary(max_size=200))
def test_nothing_makes_it_fail(data: bytes) -> None:
    start = encoded(sample(GenerationRequest))[:10]
    for value in (data, start + data):
        found = read(value)
        json.dumps(dict(found.fields), allow_nan=False)
