"""Whatever the bytes, decoding gives an event or UndecodableError, and soon."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.events.newer import newer_request_body, newer_request_schema
from tests.events.strategies import events
from tests.registry import RegistryServer
from worker.errors import UndecodableError
from worker.events.codec import EventCodec
from worker.events.confluent import ConfluentCodec
from worker.events.registry import Registry
from worker.events.schemas import current, parse
from worker.events.single_object import MARKER, SingleObjectCodec
from worker.events.types import EVENT_TYPES, Event, GenerationRequest

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


def check(codecs: list[EventCodec], data: bytes, headers: list[tuple[str, bytes | str | None]]) -> None:
    for codec in codecs:
        for cls in EVENT_TYPES:
            with contextlib.suppress(UndecodableError):
                assert isinstance(codec.decode(data, topic="t", headers=headers, expected=cls), cls)
        with contextlib.suppress(UndecodableError):
            assert isinstance(codec.decode_any(data, topic=None, headers=headers), EVENT_TYPES)


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
