"""Offset metadata: what is written can be read back, and anything else is rejected."""

from __future__ import annotations

import base64
import time
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.intake import offset_metadata
from worker.intake.offset_metadata import MAX_BYTES, PAUSE_BYTES, CompletionMap, Run, decode, encode, runs_of
from worker.settings import MAX_BUFFER

EMPTY = CompletionMap()

gaps = st.one_of(st.integers(1, 5), st.integers(1, 2**40))


@st.composite
def maps(draw: st.DrawFn) -> tuple[int, list[Run], dict[int, int]]:
    base = draw(st.integers(0, 2**62))
    runs, last = [], base
    for gap, length in draw(st.lists(st.tuples(gaps, gaps), max_size=20)):
        runs.append((last + gap, last + gap + length))
        last += gap + length
    offsets = draw(st.sets(gaps.map(lambda gap: base + gap - 1), max_size=20))
    return base, runs, {offset: draw(st.integers(1, 100)) for offset in offsets}


def forged(base: int, data: bytes) -> str:
    """Any structure, with the checksum that makes it ours."""
    crc = zlib.crc32(data, zlib.crc32(str(base).encode())).to_bytes(4, "big")
    return "v1:" + base64.b64encode(data + crc).decode()


@given(maps())
def test_a_map_comes_back_as_it_was_written(written: tuple[int, list[Run], dict[int, int]]) -> None:
    base, runs, starts = written
    assert decode(base, encode(base, runs, starts)) == CompletionMap(tuple(runs), starts)


def test_the_largest_offsets_come_back() -> None:
    last = 2**63 - 1
    assert decode(0, encode(0, [(last - 1, last)], {last - 1: 3})).finished == ((last - 1, last),)
    assert decode(last - 5, encode(last - 5, [(last - 1, last)], {})).finished == ((last - 1, last),)


def test_membership_is_by_half_open_runs() -> None:
    finished = decode(10, encode(10, [(12, 14)], {}))
    assert [offset for offset in range(10, 16) if offset in finished] == [12, 13]


def test_nothing_to_say_is_said_with_nothing() -> None:
    assert encode(5, [], {}) == ""
    assert decode(5, "") == decode(5, None) == EMPTY


@given(st.text())
@example("v1:")
@example("v1:AAAA")
@example("v1:é")
@example("v1:\ud800")
@example("v2:AAAAAAAA")
@example("NONE")
def test_text_that_is_not_ours_is_an_empty_map(text: str) -> None:
    assert decode(7, text) == decode(7, "v1:" + text) == EMPTY


@given(st.binary(max_size=200), st.integers(0, 2**63 - 1))
def test_any_structure_under_a_right_checksum_is_whole_or_nothing(data: bytes, base: int) -> None:
    found = decode(base, forged(base, data))
    if found != EMPTY:
        assert encode(base, found.finished, found.starts) == forged(base, data)
        assert all(base <= first < end for first, end in found.finished)
        assert all(a[1] <= b[0] for a, b in zip(found.finished, found.finished[1:], strict=False))
        assert all(offset >= base for offset in found.starts)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x05\x00\x00",  # a run of no length
        b"\x00\x00",  # nothing, spelt out
        b"\x01\x05\x01\x00\x00",  # something left over
        b"\x01\x85\x00\x01\x00",  # five in two bytes
        b"\x01\x05\x01\x02\x01\x01\x00\x01",  # one offset started twice over
        b"\x02\x05\x01\x00",  # fewer runs than promised
        b"\x01\x05\x01",  # no starts
        b"\x01\x05\x81",  # cut in a number
        b"\x01\x05" + b"\xff" * 9 + b"\x7f\x00",  # a length of 70 bits
        b"\xff" * 8 + b"\x7f",  # 2^63 - 1 runs in nine bytes
        b"\x00" + b"\xff" * 8 + b"\x7f",  # as many starts
        b"\xff" * 150,
    ],
)
def test_structures_that_encode_never_writes_are_refused(data: bytes) -> None:
    before = time.perf_counter()
    assert decode(0, forged(0, data)) == EMPTY
    assert time.perf_counter() - before < 0.1


@given(maps(), st.data())
def test_damage_is_told_apart(written: tuple[int, list[Run], dict[int, int]], data: st.DataObject) -> None:
    base, runs, starts = written
    metadata = encode(base, runs, starts)
    if not metadata:
        return
    at = data.draw(st.integers(3, len(metadata) - 1))
    other = data.draw(st.sampled_from("Aa0+/=").filter(lambda sign: sign != metadata[at]))
    assert decode(base, metadata[:at] + other + metadata[at + 1 :]) == EMPTY
    assert decode(base, metadata[:at]) == EMPTY


@given(maps(), st.integers(0, 2**62))
def test_a_map_is_worth_nothing_at_another_offset(written: tuple[int, list[Run], dict[int, int]], other: int) -> None:
    base, runs, starts = written
    if other != base:
        assert decode(other, encode(base, runs, starts)) == EMPTY


def test_a_megabyte_of_metadata_is_read_quickly() -> None:
    before = time.perf_counter()
    assert decode(0, "v1:" + "A" * 1_000_000) == EMPTY
    assert time.perf_counter() - before < 0.5


def worst_case(unfinished: int, *, run: int = 1, base: int = 2**62) -> int:
    """Metadata bytes with `unfinished` started records, a run of finished ones after each."""
    step = run + 1
    runs = [(base + i * step + 1, base + (i + 1) * step) for i in range(unfinished)]
    return len(encode(base, runs, {base + i * step: 3 for i in range(unfinished)}))


def test_the_map_grows_with_the_unfinished_records_and_not_with_the_finished_ones() -> None:
    # A run ends only at an unfinished record, so `buffer_per_partition` (16) bounds the map.
    assert worst_case(16) <= 100
    assert worst_case(16, run=100_000) <= 220
    # Every second record unfinished and started: four bytes each, in base64.
    assert worst_case(569) <= PAUSE_BYTES < worst_case(580)
    assert worst_case(750) <= MAX_BYTES < worst_case(770)
    # The rarest: a run of 100,000 after each.
    assert worst_case(280, run=100_000) <= PAUSE_BYTES
    # The largest buffer that the settings allow, with a week of a million records a day between any two of its records.
    assert worst_case(MAX_BUFFER + 1, run=7_000_000) <= MAX_BYTES


def test_runs_go_over_offsets_that_were_never_delivered() -> None:
    walk = [(3, True), (5, True), (9, False), (10, True), (12, True), (13, False), (14, False)]
    assert runs_of(walk) == [(3, 6), (10, 13)]
    assert runs_of([]) == []


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans())))
def test_runs_hold_the_finished_offsets_and_no_unfinished_one(steps: list[tuple[int, bool]]) -> None:
    offset, walk = 0, []
    for gap, finished in steps:
        offset += gap
        walk.append((offset, finished))
    found = CompletionMap(tuple(runs_of(walk)))
    assert all((at in found) is finished for at, finished in walk)
    assert len(found.finished) <= 1 + sum(not finished for _, finished in walk)


def test_the_limit_is_the_brokers() -> None:
    assert offset_metadata.MAX_BYTES == 4096
    assert offset_metadata.PAUSE_BYTES == 3072


def test_the_topic_that_the_offset_is_of_stands_behind_the_map() -> None:
    for runs, starts in (([], {}), ([(6, 8)], {9: 1})):
        metadata = encode(5, runs, starts, "t+2i65aYTRG1ylppFkAlhg")
        found = decode(5, metadata)
        assert found == CompletionMap(tuple(runs), starts, "t+2i65aYTRG1ylppFkAlhg")
        assert found.below(6).topic_id == found.topic_id
    assert decode(5, encode(5, [], {})).topic_id is None
    assert decode(4, encode(5, [(6, 8)], {}, "t+2i65aYTRG1ylppFkAlhg")) == CompletionMap()
    assert encode(5, [], {}, "no id") == ""
