"""Whatever the bytes and the writer's schema, decoding gives exactly the declared types, or says why not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from io import BytesIO
from typing import Any

import avro.io
import avro.schema
import pytest
from fastavro import schemaless_reader
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.events.declared import undeclared
from tests.events.foreign import Foreign, foreign, without_logical
from tests.events.newer import newer_request_body, newer_request_schema
from tests.events.strategies import events
from tests.registry import RegistryServer
from worker.errors import UndecodableError
from worker.events.avro_binary import AvroError
from worker.events.codec import EventCodec
from worker.events.confluent import ConfluentCodec
from worker.events.conversion import to_record
from worker.events.registry import Registry
from worker.events.schemas import current, parse
from worker.events.single_object import MARKER, SingleObjectCodec
from worker.events.types import BY_NAME, EVENT_TYPES, E, Event, GenerationCancellation, GenerationRequest
from worker.events.writers import Writer

pytestmark = pytest.mark.slow

NEWER = newer_request_schema()
PREFIXES = [
    b"",
    b"\xc3\x01",
    b"\x00\x00\x00\x00",
    *(b"\x00\x00\x00\x00" + bytes([number]) for number in range(8)),
    *(MARKER + schema.fingerprint for schema in current().values()),
    MARKER + parse(NEWER).fingerprint,
]
SEEDS = [
    MARKER + parse(NEWER).fingerprint + newer_request_body(),
    b"\x00\x00\x00\x00\x06" + newer_request_body(),
]
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["__value_schema_id", "x"]),
        st.none() | st.text(max_size=3) | st.binary(max_size=20) | st.binary(max_size=16).map(b"\x01".__add__),
    ),
    max_size=2,
)


@pytest.fixture(scope="module")
def codecs() -> Iterator[list[EventCodec]]:
    with RegistryServer() as server:
        for schema in current().values():
            server.add(f"any.{schema.name}-value", schema.text)
        server.add("any.newer-value", NEWER)
        with contextlib.closing(ConfluentCodec(Registry(server.url), [NEWER])) as confluent:
            yield [SingleObjectCodec([NEWER]), confluent]


def read(decode: Callable[[], E]) -> E | None:
    """What `decode` gives, once it has been looked over; None where it says that there is no event."""
    reason: str | None = None
    try:
        event = decode()
    except UndecodableError as error:
        reason = str(error)
    if reason is not None:
        assert reason.isprintable()
        assert 0 < len(reason) <= 500
        return None
    assert undeclared(event) == []
    return event


def check(codecs: list[EventCodec], data: bytes, headers: list[tuple[str, bytes | str | None]]) -> None:
    for codec in codecs:
        for cls in EVENT_TYPES:
            event = read(partial(codec.decode, data, topic="t", headers=headers, expected=cls))
            assert isinstance(event, cls | None)
        assert isinstance(read(partial(codec.decode_any, data, topic=None, headers=headers)), Event | None)


@given(st.sampled_from(PREFIXES), st.binary(max_size=200), HEADERS)
@example(b"\x00\x00\x00\x00\x01", b"\x80" * 200, [])
def test_arbitrary_bytes(
    codecs: list[EventCodec], prefix: bytes, body: bytes, headers: list[tuple[str, bytes | str | None]]
) -> None:
    check(codecs, prefix + body, headers)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    event: Event = draw(events)
    data = bytearray(draw(st.sampled_from([SingleObjectCodec().encode(event, topic="t")[0], *SEEDS])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 4)))
        data[at:end] = draw(st.binary(max_size=12) | st.sampled_from([b"\xff" * 9 + b"\x01", b"\xfe" * 9]))
    return bytes(data)


@given(mutated())
def test_mutated_events(codecs: list[EventCodec], data: bytes) -> None:
    check(codecs, data, [])


@given(st.integers(0, 1_000))
def test_every_truncation_of_a_newer_event(codecs: list[EventCodec], cut: int) -> None:
    for whole in SEEDS:
        with pytest.raises(UndecodableError):
            codecs[1].decode(whole[: cut % len(whole)], topic="t", headers=None, expected=GenerationRequest)


INPUTS = (GenerationRequest, GenerationCancellation)
foreigners = st.sampled_from(INPUTS).flatmap(lambda cls: st.tuples(st.just(cls), foreign(cls)))
TIMES = {"requested_at", "expires_at"}


@pytest.mark.parametrize("cls", INPUTS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_foreign_writers_records_are_read_as_other_libraries_read_them(cls: type[Event], data: st.DataObject) -> None:
    writer = data.draw(foreign(cls))
    reasons: list[str] = []
    event = read(partial(told, Writer(writer.text), writer.data, cls, reasons))
    for theirs in (by_apache(writer, cls), by_fastavro(writer, cls)):
        if event is not None and theirs is not None:
            ours = to_record(event)
            # As text, so that NaN is NaN. Both leave a promoted integer an int here and there, where a double is due.
            assert {name: repr(ours[name]) for name in ours.keys() - TIMES} == {
                name: repr(float(value) if isinstance(ours[name], float) else value)
                for name, value in theirs.items()
                if name not in TIMES
            }
        elif theirs is not None:
            assert any(word in reasons[0] for word in ("instant is expected", "of the years 1 to 9999")), reasons


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(foreigners, st.data())
def test_a_foreign_writers_broken_records(found: tuple[type[Event], Foreign], draw: st.DataObject) -> None:
    cls, writer = found
    data = draw.draw(st.just(writer.data).flatmap(broken) | st.binary(max_size=60))
    read(partial(Writer(writer.text).read, data, 0, cls))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(foreign(GenerationRequest), st.data())
def test_a_schema_with_a_part_replaced_is_read_or_refused(writer: Foreign, draw: st.DataObject) -> None:
    tree = json.loads(writer.text)
    spoil(tree, draw)
    with contextlib.suppress(AvroError):
        read(partial(Writer(json.dumps(tree)).read, writer.data, 0, GenerationRequest))


def told(writer: Writer, data: bytes, cls: type[E], reasons: list[str]) -> E:
    try:
        return writer.read(data, 0, cls)
    except UndecodableError as error:
        reasons.append(str(error))
        raise


def by_apache(writer: Foreign, cls: type[Event]) -> dict[str, Any] | None:
    """The record as the `avro` package reads it; None where it does not."""
    data = BytesIO(writer.data)
    try:
        reader = avro.io.DatumReader(avro.schema.parse(writer.plain), avro.schema.parse(plain_reader(cls.__name__)))
        found: Any = reader.read(avro.io.BinaryDecoder(data))
    except Exception:
        # It raises whatever Python raises on the way, and refuses some that match: bytes for text, unions.
        return None
    assert data.read() == b""
    return found if isinstance(found, dict) else None


def by_fastavro(writer: Foreign, cls: type[Event]) -> dict[str, Any] | None:
    """The record as fastavro reads it where no logical type misleads it; None where it does not."""
    data = BytesIO(writer.data)
    try:
        found: Any = schemaless_reader(data, json.loads(writer.plain), json.loads(plain_reader(cls.__name__)))
    except Exception:
        # As above.
        return None
    assert data.read() == b""
    return found if isinstance(found, dict) else None


@cache
def plain_reader(name: str) -> str:
    return json.dumps(without_logical(json.loads(current()[BY_NAME[name]].text), keep=("default",)))


def broken(whole: bytes) -> st.SearchStrategy[bytes]:
    """Some bytes cut out, and some that are easily misread put in."""
    return st.builds(
        lambda at, cut, put: whole[:at] + put + whole[at + cut :],
        st.integers(0, len(whole)),
        st.integers(0, 3),
        st.binary(max_size=4) | st.sampled_from([b"\xff" * 9 + b"\x01", b"\xff" * 11, b"\x01", b"\x03\x00"]),
    )


def spoil(tree: Any, draw: st.DataObject) -> None:
    """Put something else in one place of a schema."""
    places = [(node, key) for node in nodes(tree) for key in (node if isinstance(node, dict) else range(len(node)))]
    node, key = draw.draw(st.sampled_from(places))
    node[key] = draw.draw(
        st.sampled_from([None, -1, True, "", "int", "GenerationRequest", [], {}, ["null", ["int"]], 1e9])
    )


def nodes(tree: Any) -> list[Any]:
    """Every object and list of a JSON value."""
    if not isinstance(tree, dict | list):
        return []
    return [tree, *(n for item in (tree.values() if isinstance(tree, dict) else tree) for n in nodes(item))]
