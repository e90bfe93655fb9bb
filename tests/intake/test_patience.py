"""How long the poll thread may wait, given when each member was polled last."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.intake.patience import SHARE, Patience

INTERVAL_S = 300.0


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def patience() -> tuple[Clock, Patience]:
    clock = Clock()
    return clock, Patience("abc", clock, INTERVAL_S)


def test_the_member_that_was_polled_least_recently_counts() -> None:
    clock, left = patience()
    clock.now += 100
    left.polled("a")
    clock.now += 10
    left.polled("b")
    assert left.waited_s() == 110
    assert left.left_s() == SHARE * INTERVAL_S - 110
    left.polled("c")
    assert left.waited_s() == 10


def test_no_time_is_left_rather_than_less_than_none() -> None:
    clock, left = patience()
    clock.now += INTERVAL_S
    left.polled("a")
    assert left.left_s() == 0.0


def test_nobody_hurries_for_a_member_that_is_out_of_the_group_already() -> None:
    """As after a process was stopped for a while: the first poll would otherwise find no time to wait for anything."""
    clock, left = patience()
    clock.now += INTERVAL_S + 1
    left.polled("a")
    assert left.left_s() == pytest.approx(SHARE * INTERVAL_S)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 400)), min_size=1, max_size=30))
def test_no_chain_of_waits_keeps_a_member_from_being_polled_in_time(waits: list[tuple[str, float]]) -> None:
    """Members are polled in turn; each poll wants to wait for a time of its own, and takes no more than is left."""
    clock, left = patience()
    gaps = dict.fromkeys("abc", clock.now)
    wanted = dict(waits)
    for _ in range(3):
        for member in "abc":
            assert clock.now - gaps[member] <= SHARE * INTERVAL_S + 1e-6
            left.polled(member)
            gaps[member] = clock.now
            clock.now += min(wanted.get(member, 0.0), left.left_s())
