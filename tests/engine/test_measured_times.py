"""What is made of measurements: cold starts, stalls, and machines that change."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.measured_times import WINDOW, MeasuredTimes

STEP_S = 0.1


def measured(*seconds: float) -> MeasuredTimes:
    times = MeasuredTimes()
    for each in seconds:
        times.add(each)
    return times


def test_nothing_is_known_at_first() -> None:
    assert (measured().expected, measured().least) == (None, None)


def test_a_slow_first_step_is_all_that_is_known_and_no_bound() -> None:
    assert (measured(180.0).expected, measured(180.0).least) == (180.0, None)


def test_the_cold_step_is_forgotten_with_the_first_warm_one() -> None:
    assert measured(180.0, STEP_S).expected == STEP_S
    assert measured(180.0, STEP_S, STEP_S, STEP_S).least == STEP_S


@pytest.mark.parametrize("at", range(1, 2 * WINDOW))
def test_a_stall_of_a_minute_moves_nothing_wherever_it_falls(at: int) -> None:
    seconds = [180.0] + [STEP_S] * (2 * WINDOW)
    seconds[at] = 60.0
    times = measured(*seconds[:3])
    for each in seconds[3:]:
        times.add(each)
        assert times.expected == STEP_S
        assert times.least == STEP_S


def test_two_stalls_in_a_row_at_the_start_are_no_bound() -> None:
    assert measured(180.0, 60.0, 60.0).least is None
    assert measured(180.0, 60.0, 60.0, STEP_S).least == STEP_S


def test_steps_beside_decodes_do_not_count_where_most_are_alone() -> None:
    times = measured(1.0, *[STEP_S, STEP_S, 3 * STEP_S] * WINDOW)
    assert (times.expected, times.least) == (STEP_S, STEP_S)


def test_a_machine_that_becomes_slower_and_then_faster_is_followed() -> None:
    times = measured(1.0, *[0.2] * WINDOW)
    for _ in range(WINDOW // 2 + 1):
        times.add(0.6)
    assert (times.expected, times.least) == (0.6, 0.2), "slower is expected, and the bound remembers what it could do"
    for _ in range(WINDOW // 2 + 1):
        times.add(0.1)
    assert (times.expected, times.least) == (0.1, 0.1)


@pytest.mark.parametrize("seconds", [-3600.0, math.nan, math.inf, -math.inf])
def test_what_cannot_be_a_duration_is_ignored(seconds: float) -> None:
    times = measured(seconds, 1.0, seconds, STEP_S, STEP_S, STEP_S, seconds)
    assert (times.expected, times.least) == (STEP_S, STEP_S)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_the_bound_is_below_everything_that_was_ever_measured(seconds: list[float]) -> None:
    times = measured(*seconds)
    assert times.least is None or times.least == min(seconds)
    assert times.expected is not None
    assert min(seconds) <= times.expected <= max(seconds)
