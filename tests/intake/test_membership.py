"""When the first assignment has arrived, an empty one included."""

from __future__ import annotations

from worker.intake.membership import QUIET_S, FirstAssignment, generation

OUTSIDE = b"CGMDv2:\xff\xff\xff\xffgroup\x00\x00\x01"
MEMBER = b"CGMDv2:\x04\x00\x00\x00group\x00OtuWbuW1TeSAySgTu37rMw\x00\x01"


def test_generations_are_read_from_librdkafkas_metadata() -> None:
    assert [generation(data) for data in (MEMBER, OUTSIDE, None, b"CGMDv2:\x04", b"CGMDv9:\x04\x00\x00\x00")] == [
        4,
        -1,
        0,
        0,
        0,
    ]


def test_nothing_has_arrived_before_the_member_has_joined() -> None:
    first = FirstAssignment()
    for second in range(600):
        first.observe(OUTSIDE, second)
    assert not first.arrived


def test_the_callback_is_the_assignment() -> None:
    first = FirstAssignment()
    first.on_assigned()
    assert first.arrived


def test_a_member_that_is_never_called_back_has_no_partitions() -> None:
    first = FirstAssignment()
    first.observe(MEMBER, 10.0)
    first.observe(MEMBER, 10.0 + QUIET_S - 0.1)
    assert not first.arrived, "the callback may be on its way"
    first.observe(MEMBER, 10.0 + QUIET_S)
    assert first.arrived


def test_a_member_that_left_in_between_starts_anew() -> None:
    first = FirstAssignment()
    first.observe(MEMBER, 10.0)
    first.observe(OUTSIDE, 12.0)
    first.observe(MEMBER, 14.0)
    first.observe(MEMBER, 10.0 + QUIET_S)
    assert not first.arrived


def test_a_member_that_was_thrown_out_waits_for_a_new_one() -> None:
    first = FirstAssignment()
    first.on_assigned()
    first.on_lost()
    assert not first.arrived
    first.observe(MEMBER, 10.0)
    assert not first.arrived
