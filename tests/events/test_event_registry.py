"""Confluent framing, over HTTP against a schema registry server in the tests."""

from __future__ import annotations

import json
import socket
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
from worker.events.avro_schema import MAX_SCHEMA_CHARS
from worker.events.codec import make_codec
from worker.events.confluent import ConfluentCodec
from worker.events.registry import Registry, SchemaKey
from worker.events.schema_lookup import POLL_THREAD, SchemaLookup
from worker.events.schemas import current
from worker.events.single_object import SingleObjectCodec
from worker.events.types import (
    Event,
    GenerationCancellation,
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
        ('{"type": "object"}', {"schemaType": "JSON"}, "JSON, not Avro"),
        ("[" * 100_000, {}, "not JSON"),
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


def test_a_recursive_writer_schema_is_read_as_deep_as_anyone_nests(
    server: RegistryServer, codec: ConfluentCodec
) -> None:
    # A deep datum of such a type overflows the C stack of fastavro and kills the process.
    schema = json.loads(current()[GenerationRequest].text)
    schema["fields"].append({"name": "parent", "type": ["null", "GenerationRequest"], "default": None})
    schema_id, _ = server.add(f"{TOPIC}-value", json.dumps(schema))
    assert decode(codec, framed(schema_id, BODY + b"\x02" + BODY + b"\x00")) == REQUEST
    with pytest.raises(UndecodableError, match="64 deep"):
        decode(codec, framed(schema_id, (BODY + b"\x02") * 1_000))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "null"),
        (b"", "empty"),
        (b"\x00\x00", "ends within"),
        (b"\x00\x00\x00\x00\x63" + BODY, "does not know the schema id 99"),
        (b"\x00\x80\x00\x00\x00" + BODY, "2147483648 is no schema id"),
        (b"\x00\xff\xff\xff\xff" + BODY, "4294967295 is no schema id"),
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
        (403, b'{"error_code": 40301, "message": "Forbidden"}'),
        (200, b"{}"),
        (200, b"[]"),
        (200, b'{"schema": 5}'),
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


SUBJECT = f"{TOPIC}-value"


def test_an_id_is_asked_for_without_a_subject_first(server: RegistryServer, codec: ConfluentCodec) -> None:
    # A registry that holds id and subject together does not know it under a subject of another strategy.
    schema_id, _ = server.add("imagegen.events.v1.GenerationRequest", current()[GenerationRequest].text)
    server.by_subject = True
    assert decode(codec, framed(schema_id, BODY)) == REQUEST
    assert server.subjects_asked == [None]


@pytest.mark.parametrize("status", [404, 403])
def test_an_id_that_needs_its_subject_is_asked_for_with_it(
    server: RegistryServer, codec: ConfluentCodec, status: int
) -> None:
    schema_id, _ = server.add(SUBJECT, current()[GenerationRequest].text)
    server.without_subject = status
    assert decode(codec, framed(schema_id, BODY)) == REQUEST
    assert server.subjects_asked == [None, SUBJECT]
    with pytest.raises((UndecodableError, RegistryUnavailable)):
        codec.decode_any(framed(schema_id, BODY), topic=None, headers=None)


def test_an_id_that_becomes_known_only_a_moment_later_is_read(server: RegistryServer) -> None:
    now, key = [0.0], SchemaKey(1, None, SUBJECT)
    with (
        closing(Registry(server.url)) as registry,
        closing(SchemaLookup(registry.writer, POLL_THREAD, lambda: now[0])) as lookup,
    ):
        for _ in range(4):
            with pytest.raises(RegistryUnavailable):
                lookup.get(key)
            assert lookup.settle(20.0)
            now[0] += 2.0
        assert len(server.subjects_asked) > 2
        server.add("anywhere", current()[GenerationRequest].text)
        now[0] = POLL_THREAD.grace_s
        with pytest.raises(RegistryUnavailable):
            lookup.get(key)
        assert lookup.settle(20.0)
        assert lookup.get(key).read(BODY, 0, GenerationRequest) == REQUEST


def test_a_registry_that_hangs_does_not_hold_up_who_must_not_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with closing(ConfluentCodec(Registry(url), patience=POLL_THREAD)) as codec:
            for schema_id in range(1, 100):
                with pytest.raises(RegistryUnavailable, match="is being fetched"):
                    decode(codec, framed(schema_id, BODY))
            single, _ = SingleObjectCodec().encode(REQUEST, topic=TOPIC)
            assert decode(codec, single) == REQUEST


def test_the_workers_codec_does_not_wait_for_the_registry() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = Settings(_env_file=None, schema_registry_url=url)
        with closing(make_codec(found, waits=False)) as codec, pytest.raises(RegistryUnavailable, match="is being"):
            decode(codec, framed(1, BODY))


@pytest.mark.parametrize("version", [2, None])
def test_a_reference_that_is_not_there_is_undecodable(
    server: RegistryServer, codec: ConfluentCodec, version: int | None
) -> None:
    server.add("priority", '{"type": "fixed", "name": "F", "size": 1}')
    reference = {"name": "F", "subject": "priority", "version": version}
    schema_id, _ = server.add(SUBJECT, current()[GenerationRequest].text, references=[reference])
    with pytest.raises(UndecodableError):
        decode(codec, framed(schema_id, BODY))


def test_references_without_end_are_not_followed(server: RegistryServer, codec: ConfluentCodec) -> None:
    for number in range(200):
        following = {"name": "F", "subject": f"s{number + 1}", "version": 1}
        schema = json.dumps({"type": "fixed", "name": f"F{number}", "size": 1})
        server.add(f"s{number}", schema, references=[following])
    first = {"name": "F", "subject": "s0", "version": 1}
    schema_id, _ = server.add(SUBJECT, current()[GenerationRequest].text, references=[first])
    with pytest.raises(UndecodableError, match="more than 100 schemas"):
        decode(codec, framed(schema_id, BODY))


def test_references_are_bounded_together(server: RegistryServer, codec: ConfluentCodec) -> None:
    references = []
    for number in range(3):
        doc = "x" * (MAX_SCHEMA_CHARS // 3)
        server.add(f"s{number}", json.dumps({"type": "fixed", "name": f"F{number}", "size": 1, "doc": doc}))
        references.append({"name": f"F{number}", "subject": f"s{number}", "version": 1})
    schema_id, _ = server.add(SUBJECT, current()[GenerationRequest].text, references=references)
    with pytest.raises(UndecodableError, match=f"more than {MAX_SCHEMA_CHARS} characters"):
        decode(codec, framed(schema_id, BODY))


@pytest.mark.parametrize(
    ("changes", "is_read"),
    [({}, False), ({"mode": "WRITE"}, True), ({"kind": "CONDITION"}, True), ({"disabled": True}, True)],
)
def test_a_schema_whose_fields_are_encrypted_is_not_read_as_if_they_were_not(
    server: RegistryServer, codec: ConfluentCodec, changes: dict[str, Any], is_read: bool
) -> None:
    rule = {"name": "pii", "kind": "TRANSFORM", "mode": "WRITEREAD", "type": "ENCRYPT", "disabled": False} | changes
    schema_id, _ = server.add(SUBJECT, current()[GenerationRequest].text, ruleSet={"domainRules": [rule]})
    if is_read:
        assert decode(codec, framed(schema_id, BODY)) == REQUEST
        return
    with pytest.raises(UndecodableError, match="the rule pii \\(ENCRYPT\\), which this service does not undo"):
        decode(codec, framed(schema_id, BODY))


def test_a_cancellation_is_read_in_every_framing(server: RegistryServer, codec: ConfluentCodec) -> None:
    cancellation = GenerationCancellation(job_id="job-1", reason="enough")
    single, _ = SingleObjectCodec().encode(cancellation, topic="t")
    schema_id, guid = server.add("t-value", current()[GenerationCancellation].text)
    body = single[10:]
    for data, headers in (
        (single, None),
        (framed(schema_id, body), None),
        (body, [("__value_schema_id", framed(schema_id, b""))]),
        (body, [("__value_schema_id", b"\x01" + guid.bytes)]),
    ):
        assert decode(codec, data, headers, GenerationCancellation) == cancellation


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
