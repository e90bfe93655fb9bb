"""The cost model: what it learns, and its estimates for sizes that it has not seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.cost import CostModel, Group, Stage

SQUARE, WIDE = Group(Stage.BASE, 8, 8), Group(Stage.BASE, 8, 16)


def learnt(seconds: dict[int, float]) -> CostModel:
    cost = CostModel()
    for rows, value in seconds.items():
        cost.observe(SQUARE, rows, value)
    return cost


def test_nothing_is_known_at_first() -> None:
    cost = CostModel()
    assert cost.step_seconds(SQUARE, 1) is None
    assert cost.tail_seconds(SQUARE) == 0
    assert cost.least_seconds(SQUARE, 4) == 0
    assert cost.least_seconds_per_row(SQUARE, 4) == 0


def test_a_sample_moves_the_estimate_by_a_tenth() -> None:
    cost = learnt({2: 1.0})
    cost.observe(SQUARE, 2, 2.0)
    assert cost.step_seconds(SQUARE, 2) == pytest.approx(1.1)


def test_a_lasting_change_is_followed() -> None:
    cost = learnt({2: 1.0})
    for _ in range(50):
        cost.observe(SQUARE, 2, 3.0)
    assert cost.step_seconds(SQUARE, 2) == pytest.approx(3.0, rel=0.01)


@given(st.lists(st.floats(0.01, 100), min_size=1))
def test_the_estimate_stays_within_what_was_seen(samples: list[float]) -> None:
    cost = CostModel()
    for seconds in samples:
        cost.observe(SQUARE, 1, seconds)
    estimate = cost.step_seconds(SQUARE, 1)
    assert estimate is not None
    assert min(samples) * 0.999 <= estimate <= max(samples) * 1.001


@pytest.mark.parametrize(("rows", "seconds"), [(1, 0.5), (2, 1.0), (3, 1.2), (4, 1.4), (8, 2.8)])
def test_unseen_sizes_lie_between_their_neighbours_or_in_proportion(rows: int, seconds: float) -> None:
    assert learnt({2: 1.0, 4: 1.4}).step_seconds(SQUARE, rows) == pytest.approx(seconds)


def test_groups_are_learnt_apart() -> None:
    cost = learnt({1: 1.0})
    assert cost.step_seconds(WIDE, 1) is None
    assert cost.step_seconds(Group(Stage.REFINER, 8, 8), 1) is None


def test_decoding_is_learnt_by_shape_for_every_stage() -> None:
    cost = CostModel()
    cost.observe_decode(8, 8, 1.0)
    cost.observe_decode(8, 8, 2.0)
    assert cost.tail_seconds(SQUARE) == pytest.approx(1.1)
    assert cost.tail_seconds(Group(Stage.REFINER, 8, 8)) == pytest.approx(1.1)
    assert cost.tail_seconds(WIDE) == 0


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0}, 4),
        ({1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}, 1),
        ({1: 1.0, 2: 1.2, 3: 1.8, 4: 2.4}, 2),
        ({1: 1.0, 2: 1.99, 3: 2.98, 4: 3.97}, 1),  # gains of a percent are not worth the delay
        ({1: 1.0, 2: 2.0, 3: 3.0, 4: 1.0}, 4),  # over a hump
    ],
)
def test_the_best_batch_is_the_smallest_of_the_highest_rate(seconds: dict[int, float], best: int) -> None:
    assert learnt(seconds).best_rows(SQUARE, 4) == best


@pytest.mark.parametrize("missing", [1, 2, 3, 4])
def test_a_size_that_was_never_run_is_worth_a_try(missing: int) -> None:
    seconds = {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}
    del seconds[missing]
    assert learnt(seconds).best_rows(SQUARE, 4) == 4


def test_the_best_batch_stays_within_the_slots() -> None:
    assert learnt(dict.fromkeys(range(1, 9), 1.0)).best_rows(SQUARE, 3) == 3


@given(
    seen=st.dictionaries(st.integers(1, 8), st.floats(0.1, 10), min_size=1),
    rows=st.integers(1, 8),
    slots=st.integers(1, 8),
)
def test_least_costs_are_no_more_than_any_step_is_expected_to_take(
    seen: dict[int, float], rows: int, slots: int
) -> None:
    cost = learnt(seen)
    expected = cost.step_seconds(SQUARE, rows)
    assert expected is not None
    if rows <= slots:
        assert cost.least_seconds(SQUARE, slots) <= expected
    if rows <= min(slots, max(seen)):
        assert cost.least_seconds_per_row(SQUARE, slots) <= expected / rows
