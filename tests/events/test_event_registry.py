"""Confluent framing, over HTTP against the tests' own registry server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from typing import Any

import pytest
from fastavro import schemaless_reader
from hypothesis import HealthCheck, given, settings
from pydantic import SecretStr

from tests.events.newer import newer_request_body, newer_request_schema
from tests.events.strategies import events, sample
from tests.registry import RegistryServer
from worker.errors import RegistryUnavailable, UndecodableError
from worker.events.codec import make_codec
from worker.events.confluent import ConfluentCodec
from worker.events.registry import Registry
from worker.events.schemas import current
from worker.events.single_object import SingleObjectCodec
from worker.events.types import (
    Event,
    GenerationFailed,
    GenerationRequest,
    GenerationStatus,
    Priority,
)
from worker.settings import Settings

TOPIC = "generation.requests.high"
REQUEST = GenerationRequest(job_id="job-1", girl_id="anna", user_id=7, prompt="a portrait")
BODY = SingleObjectCodec().encode(REQUEST, topic=TOPIC)[0][10:]


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


@pytest.fixture
def codec(server: RegistryServer) -> Iterator[ConfluentCodec]:
    with closing(ConfluentCodec(Registry(server.url))) as codec:
        yield codec


def framed(schema_id: int, body: bytes) -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big") + body


def decode(codec: Any, data: bytes | None, headers: Any = None, expected: Any = GenerationRequest) -> Any:
    return codec.decode(data, topic=TOPIC, headers=headers, expected=expected)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(event=events)
def test_every_event_round_trips(codec: ConfluentCodec, event: Event) -> None:
    data, headers = codec.encode(event, topic="any")
    assert headers == ()
    assert data[:1] == b"\x00"
    assert codec.decode(data, topic="any", headers=None, expected=type(event)) == event
    assert codec.decode_any(data, topic=None, headers=None) == event


def test_schemas_are_registered_once_per_topic_under_the_topics_name(
    server: RegistryServer, codec: ConfluentCodec
) -> None:
    for _ in range(3):
        for lane in ("urgent", "high"):
            codec.encode(REQUEST, topic=f"generation.requests.{lane}")
    codec.encode(sample(GenerationFailed), topic="generation.failed")
    assert server.subjects() == [
        "generation.failed-value",
        "generation.requests.high-value",
        "generation.requests.urgent-value",
    ]
    assert len(server.requests) == 3


def test_our_bytes_are_the_id_and_plain_avro(server: RegistryServer, codec: ConfluentCodec) -> None:
    data, _ = codec.encode(REQUEST, topic=TOPIC)
    schema_id, _ = server.add(f"{TOPIC}-value", current()[GenerationRequest].text)
    assert data[:5] == framed(schema_id, b"")
    assert data[5:] == BODY
    record = schemaless_reader(BytesIO(data[5:]), current()[GenerationRequest].parsed, None)
    assert isinstance(record, dict)
    assert record["job_id"] == "job-1"


def test_a_schema_is_fetched_once(server: RegistryServer, codec: ConfluentCodec) -> None:
    schema_id, _ = server.add(f"{TOPIC}-value", current()[GenerationRequest].text)
    for _ in range(3):
        assert decode(codec, framed(schema_id, BODY)) == REQUEST
    assert server.requests == [f"GET /schemas/ids/{schema_id}"]


def test_a_guid_in_a_header_is_read(server: RegistryServer, codec: ConfluentCodec) -> None:
    _, guid = server.add(f"{TOPIC}-value", current()[GenerationRequest].text)
    headers = [("x", None), ("__value_schema_id", b"\x01" + guid.bytes)]
    assert decode(codec, BODY, headers) == REQUEST
    assert codec.decode_any(BODY, topic=None, headers=headers) == REQUEST
    with pytest.raises(UndecodableError, match="1 bytes follow"):
        decode(codec, BODY + b"\x00", headers)


def test_an_id_in_a_header_is_read(server: RegistryServer, codec: ConfluentCodec) -> None:
    schema_id, _ = server.add(f"{TOPIC}-value", current()[GenerationRequest].text)
    assert decode(codec, BODY, [("__value_schema_id", framed(schema_id, b""))]) == REQUEST


def test_single_object_is_read_without_asking_the_registry(server: RegistryServer, codec: ConfluentCodec) -> None:
    data, _ = SingleObjectCodec().encode(REQUEST, topic=TOPIC)
    assert decode(codec, data, [("__value_schema_id", b"\x01" + bytes(16))]) == REQUEST
    assert codec.decode_any(data, topic=None, headers=None) == REQUEST
    assert server.requests == []


def test_a_newer_writer_is_read(server: RegistryServer, codec: ConfluentCodec) -> None:
    schema_id, _ = server.add(f"{TOPIC}-value", newer_request_schema())
    event = decode(codec, framed(schema_id, newer_request_body()))
    assert (event.job_id, event.prompt, event.priority) == ("job-1", "a portrait", Priority.UNKNOWN)
    with pytest.raises(UndecodableError):
        decode(codec, framed(schema_id, newer_request_body()[:-3]))


def test_a_schema_with_references_is_read(server: RegistryServer, codec: ConfluentCodec) -> None:
    schema = json.loads(current()[GenerationRequest].text)
    priority = next(f for f in schema["fields"] if f["name"] == "priority")
    shared = priority["type"] | {"namespace": schema["namespace"]}
    priority["type"] = "imagegen.events.v1.Priority"
    server.add("priority", json.dumps(shared))
    reference = {"name": "imagegen.events.v1.Priority", "subject": "priority", "version": 1}
    schema_id, _ = server.add(f"{TOPIC}-value", json.dumps(schema), references=[reference])
    assert decode(codec, framed(schema_id, BODY)) == REQUEST


@pytest.mark.parametrize(
    ("schema", "more", "reason"),
    [
        ("message M {}", {"schemaType": "PROTOBUF"}, "PROTOBUF, not Avro"),
        ("{", {}, "unusable"),
        ('"string"', {}, "not a record"),
        ('{"type": "record", "name": "GenerationRequest", "fields": [{"name": "a", "type": "x"}]}', {}, "x"),
        (current()[GenerationStatus].text, {}, "a GenerationStatus, where a GenerationRequest"),
    ],
)
def test_a_message_of_a_wrong_schema_is_undecodable(
    server: RegistryServer, codec: ConfluentCodec, schema: str, more: dict[str, Any], reason: str
) -> None:
    schema_id, _ = server.add("other-value", schema, **more)
    with pytest.raises(UndecodableError, match=reason):
        decode(codec, framed(schema_id, BODY))


def test_a_recursive_writer_schema_does_not_reach_fastavro(server: RegistryServer, codec: ConfluentCodec) -> None:
    # A deep datum of such a type overflows the C stack of fastavro and kills the process.
    schema = json.loads(current()[GenerationRequest].text)
    schema["fields"].append({"name": "parent", "type": ["null", "GenerationRequest"], "default": None})
    schema_id, _ = server.add(f"{TOPIC}-value", json.dumps(schema))
    with pytest.raises(UndecodableError, match="contains itself"):
        decode(codec, framed(schema_id, BODY + b"\x02" * 1_000_000))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "null"),
        (b"", "empty"),
        (b"\x00\x00", "ends within"),
        (b"\x00\x00\x00\x00\x63" + BODY, "does not know"),
        (b"\x01" + bytes(16) + BODY, "starts with 01 00"),
        (b"plain text", "starts with 70 6c"),
    ],
)
def test_bytes_that_are_no_event_say_why(codec: ConfluentCodec, data: bytes | None, reason: str) -> None:
    with pytest.raises(UndecodableError, match=reason):
        decode(codec, data)


@pytest.mark.parametrize(
    "answer",
    [
        (500, b"{}"),
        (503, b"<html>"),
        (401, b'{"error_code": 40101, "message": "Unauthorized"}'),
        (404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'),
        (200, b"<html>a proxy's page</html>"),
        (409, b'{"error_code": 409, "message": "incompatible"}'),
    ],
)
def test_a_registry_that_refuses_is_no_undecodable_message(
    server: RegistryServer, codec: ConfluentCodec, answer: tuple[int, bytes]
) -> None:
    schema_id, _ = server.add(f"{TOPIC}-value", current()[GenerationRequest].text)
    server.forced_answer = answer
    with pytest.raises(RegistryUnavailable):
        decode(codec, framed(schema_id, BODY))
    with pytest.raises(RegistryUnavailable):
        codec.encode(REQUEST, topic=TOPIC)
    server.forced_answer = None
    assert decode(codec, framed(schema_id, BODY)) == REQUEST
    assert codec.encode(REQUEST, topic=TOPIC)[0] == framed(schema_id, BODY)


def test_a_registry_that_is_down_is_no_undecodable_message() -> None:
    with RegistryServer() as server:
        url = server.url
    with closing(ConfluentCodec(Registry(url))) as codec:
        with pytest.raises(RegistryUnavailable, match="no answer"):
            decode(codec, framed(1, BODY))
        with pytest.raises(RegistryUnavailable, match="no answer"):
            codec.encode(REQUEST, topic=TOPIC)


def test_credentials_come_from_the_settings() -> None:
    with RegistryServer(user_info="worker:secret") as server:
        found = Settings(
            _env_file=None,
            schema_registry_url=server.url,
            schema_registry_user_info=SecretStr("worker:secret"),
        )
        with closing(make_codec(found)) as codec:
            assert decode(codec, codec.encode(REQUEST, topic=TOPIC)[0]) == REQUEST
        anonymous = found.model_copy(update={"schema_registry_user_info": None})
        with (
            closing(make_codec(anonymous)) as stranger,
            pytest.raises(RegistryUnavailable, match="Unauthorized"),
        ):
            stranger.encode(REQUEST, topic=TOPIC)
