"""Look-ups of writers' schemas: nobody waits for them, and nothing is decided too early or for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from worker.errors import RegistryUnavailable, UndecodableError
from worker.events.registry import SchemaKey, SchemaNotFound
from worker.events.schema_lookup import (
    COMMAND,
    MAX_SCHEMAS,
    POLL_THREAD,
    REFUSED_S,
    UNWANTED_S,
    Patience,
    SchemaLookup,
)
from worker.events.writers import Writer

WRITER = Writer(
    '{"type": "record", "name": "GenerationCancellation", "fields": [{"name": "job_id", "type": "string"}]}'
)
KEY = SchemaKey(1, None, "t-value")
WAIT_S = 20.0


class Desk:
    """A registry whose answers wait until the test gives them, and a clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.asked: list[SchemaKey] = []
        self.answer: Callable[[], Writer] = lambda: WRITER
        self.gate = threading.Semaphore(0)
        self.was_asked = threading.Semaphore(0)

    def fetch(self, key: SchemaKey) -> Writer:
        self.asked.append(key)
        self.was_asked.release()
        assert self.gate.acquire(timeout=WAIT_S)
        return self.answer()

    def fails(self, error: Exception) -> None:
        def answer() -> Writer:
            raise error

        self.answer = answer


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def lookup(desk: Desk) -> Iterator[SchemaLookup]:
    with closing(SchemaLookup(desk.fetch, POLL_THREAD, lambda: desk.now)) as lookup:
        yield lookup


def refusal(lookup: SchemaLookup, key: SchemaKey = KEY) -> str:
    with pytest.raises(RegistryUnavailable) as caught:
        lookup.get(key)
    return str(caught.value)


def let_answer(desk: Desk, lookup: SchemaLookup, count: int = 1) -> None:
    """Have what is under way answered, and noted."""
    for _ in range(count):
        desk.gate.release()
    assert lookup.settle(WAIT_S)


def test_the_poll_thread_does_not_wait_and_gets_the_schema_later(desk: Desk, lookup: SchemaLookup) -> None:
    assert "is being fetched" in refusal(lookup)
    for _ in range(5):
        refusal(lookup)
    let_answer(desk, lookup)
    assert lookup.get(KEY) is WRITER
    assert lookup.get(KEY) is WRITER
    assert desk.asked == [KEY]


def test_a_command_waits_for_what_is_under_way(desk: Desk) -> None:
    desk.gate.release()
    with closing(SchemaLookup(desk.fetch, COMMAND)) as lookup:
        assert lookup.get(KEY) is WRITER


def test_a_command_does_not_wait_for_ever(desk: Desk) -> None:
    with closing(SchemaLookup(desk.fetch, Patience(wait_s=0.01, grace_s=0, pause_s=0))) as lookup:
        assert "is being fetched" in refusal(lookup)
        desk.gate.release()


def test_one_look_up_is_under_way_at_a_time_and_others_do_not_wait_for_it(desk: Desk, lookup: SchemaLookup) -> None:
    other = KEY._replace(id=2)
    refusal(lookup, KEY)
    refusal(lookup, other)
    assert desk.was_asked.acquire(timeout=WAIT_S)
    assert desk.asked == [KEY]
    let_answer(desk, lookup, 2)
    assert desk.asked == [KEY, other]
    assert lookup.get(other) is WRITER


def test_pauses_between_look_ups_double_up_to_a_bound(desk: Desk, lookup: SchemaLookup) -> None:
    desk.fails(RegistryUnavailable("the schema registry refuses: 503"))
    refusal(lookup)
    let_answer(desk, lookup)
    for number, pause_s in enumerate([0.5, 1.0, 2.0, 4.0, 8.0, 8.0], start=1):
        desk.now += pause_s - 0.01
        assert refusal(lookup) == "the schema registry refuses: 503"
        assert len(desk.asked) == number
        desk.now += 0.01
        refusal(lookup)
        let_answer(desk, lookup)
        assert len(desk.asked) == number + 1
    desk.answer = lambda: WRITER
    desk.now += POLL_THREAD.max_pause_s
    refusal(lookup)
    let_answer(desk, lookup)
    assert lookup.get(KEY) is WRITER


def unknown_until(desk: Desk, lookup: SchemaLookup, seconds: float) -> None:
    """Ask ten times a second while the registry does not know the id."""
    desk.fails(SchemaNotFound("Schema 1 not found"))
    end = desk.now + seconds
    while desk.now < end:
        refusal(lookup)
        if not lookup.settle(0):
            let_answer(desk, lookup)
            assert "does not know the schema id 1" in refusal(lookup)
        desk.now += 0.1


def test_an_id_that_becomes_known_in_time_is_read(desk: Desk, lookup: SchemaLookup) -> None:
    unknown_until(desk, lookup, POLL_THREAD.grace_s - 1)
    desk.answer = lambda: WRITER
    desk.now += 1.0
    refusal(lookup)
    let_answer(desk, lookup)
    assert lookup.get(KEY) is WRITER


def refused_after_grace(desk: Desk, lookup: SchemaLookup) -> None:
    unknown_until(desk, lookup, POLL_THREAD.grace_s - 1)
    desk.now += 1.0
    refusal(lookup)
    let_answer(desk, lookup)
    with pytest.raises(UndecodableError, match="does not know the schema id 1"):
        lookup.get(KEY)


def test_an_id_that_stays_unknown_is_undecodable_in_the_end(desk: Desk, lookup: SchemaLookup) -> None:
    refused_after_grace(desk, lookup)
    asked = len(desk.asked)
    with pytest.raises(UndecodableError):
        lookup.get(KEY)
    assert len(desk.asked) == asked


def test_a_refusal_expires_and_is_renewed_without_another_grace(desk: Desk, lookup: SchemaLookup) -> None:
    refused_after_grace(desk, lookup)
    desk.now += REFUSED_S
    refusal(lookup)
    let_answer(desk, lookup)
    with pytest.raises(UndecodableError):
        lookup.get(KEY)
    desk.now += REFUSED_S
    desk.answer = lambda: WRITER
    refusal(lookup)
    let_answer(desk, lookup)
    assert lookup.get(KEY) is WRITER


def test_an_outage_does_not_use_up_the_grace(desk: Desk, lookup: SchemaLookup) -> None:
    desk.fails(RegistryUnavailable("down"))
    refusal(lookup)
    let_answer(desk, lookup)
    desk.now += 3_600.0
    desk.fails(SchemaNotFound("Schema 1 not found"))
    refusal(lookup)
    let_answer(desk, lookup)
    assert "does not know" in refusal(lookup)


def test_an_unusable_schema_is_undecodable_at_once(desk: Desk, lookup: SchemaLookup) -> None:
    desk.fails(UndecodableError("the writer's schema 1 is PROTOBUF, not Avro"))
    refusal(lookup)
    let_answer(desk, lookup)
    with pytest.raises(UndecodableError, match="PROTOBUF"):
        lookup.get(KEY)


def test_an_error_that_nobody_foresaw_ends_neither_the_thread_nor_the_waiting(desk: Desk, lookup: SchemaLookup) -> None:
    desk.fails(ZeroDivisionError("oops"))
    refusal(lookup)
    let_answer(desk, lookup)
    with pytest.raises(UndecodableError, match="ZeroDivisionError: oops"):
        lookup.get(KEY)
    desk.answer = lambda: WRITER
    other = KEY._replace(id=2)
    refusal(lookup, other)
    let_answer(desk, lookup)
    assert lookup.get(other) is WRITER


def test_a_flood_of_ids_is_bounded_and_forgets_none_under_way(desk: Desk, lookup: SchemaLookup) -> None:
    keys = [KEY._replace(id=number) for number in range(MAX_SCHEMAS)]
    for key in keys:
        refusal(lookup, key)
    newcomer = KEY._replace(id=MAX_SCHEMAS)
    assert "are being looked up already" in refusal(lookup, newcomer)
    let_answer(desk, lookup, MAX_SCHEMAS)
    assert "is being fetched" in refusal(lookup, newcomer)
    let_answer(desk, lookup)
    assert all(lookup.get(key) is WRITER for key in [newcomer, *keys[1:]])
    assert "is being fetched" in refusal(lookup, keys[0])
    let_answer(desk, lookup)


def test_ids_that_nobody_asks_for_any_more_make_room(desk: Desk, lookup: SchemaLookup) -> None:
    desk.fails(RegistryUnavailable("down"))
    for number in range(MAX_SCHEMAS):
        refusal(lookup, KEY._replace(id=number))
    let_answer(desk, lookup, MAX_SCHEMAS)
    newcomer = KEY._replace(id=MAX_SCHEMAS)
    assert "are being looked up already" in refusal(lookup, newcomer)
    desk.now += UNWANTED_S + 1
    desk.answer = lambda: WRITER
    refusal(lookup, newcomer)
    let_answer(desk, lookup)
    assert lookup.get(newcomer) is WRITER
