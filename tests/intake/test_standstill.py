"""A partition that brings nothing although it holds more is found, and one that has nothing to bring is left alone."""

from __future__ import annotations

from itertools import pairwise

import pytest

from worker.intake.standstill import FIRST_PAUSE_S, LONGEST_PAUSE_S, Progress, Standstill

KEY = ("urgent", 0)


def found(progress: Progress, seconds: float, step: float = 5.0) -> list[float]:
    """When it is found, of a partition that stays as it is."""
    standstill = Standstill()
    times = [n * step for n in range(int(seconds / step) + 1)]
    return [time for time in times if standstill.find({KEY: progress}, time)]


@pytest.mark.parametrize("progress", [Progress(7, 9), Progress(None, 9), Progress(None, None), Progress(7, None)])
def test_a_silent_partition_is_found_and_again_ever_more_rarely(progress: Progress) -> None:
    times = found(progress, 4 * LONGEST_PAUSE_S)
    pauses = [after - before for before, after in pairwise(times)]
    assert times[0] == FIRST_PAUSE_S
    assert pauses[0] == 2 * FIRST_PAUSE_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S


@pytest.mark.parametrize("progress", [Progress(9, 9), Progress(None, 0), Progress(9, 3)])
def test_a_partition_that_is_read_to_its_end_is_left_alone(progress: Progress) -> None:
    assert found(progress, LONGEST_PAUSE_S) == []


def test_every_record_begins_the_wait_anew() -> None:
    standstill = Standstill()
    for second in range(300):
        assert standstill.find({KEY: Progress(second // 20, 1_000)}, float(second)) == []


def test_a_partition_that_was_paused_or_away_begins_anew() -> None:
    standstill = Standstill()
    assert standstill.find({KEY: Progress(7, 9)}, 0.0) == []
    assert standstill.find({}, FIRST_PAUSE_S) == []
    assert standstill.find({KEY: Progress(7, 9)}, FIRST_PAUSE_S + 1) == []
