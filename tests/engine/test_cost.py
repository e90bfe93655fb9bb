"""The cost model: what it learns, and its estimates for sizes that it has not seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.cost import GROUPS_MAX, CostModel, Group, Stage

SQUARE, WIDE = Group(Stage.BASE, 8, 8), Group(Stage.BASE, 8, 16)


WARM = 4  # measurements, of which the first is cold


def learnt(seconds: dict[int, float]) -> CostModel:
    cost = CostModel()
    for rows, value in seconds.items():
        cost.observe(SQUARE, rows, *[value] * WARM)
    return cost


def test_nothing_is_known_of_a_size_that_was_never_drawn() -> None:
    cost = learnt({1: 1.0, 2: 1.5})
    assert cost.step_seconds(WIDE, 1) is None
    assert cost.least_seconds(WIDE, 1) == 0
    assert cost.least_seconds_at_most(WIDE, 4) == 0
    assert cost.least_seconds_per_row(WIDE, 4) == 0
    assert cost.least_decode_seconds(WIDE) == 0


@given(st.lists(st.floats(0.01, 100), min_size=1))
def test_estimates_stay_within_what_was_seen(samples: list[float]) -> None:
    cost = CostModel()
    for seconds in samples:
        cost.observe(SQUARE, 1, seconds)
    estimate = cost.step_seconds(SQUARE, 1)
    assert estimate is not None
    assert min(samples) <= estimate <= max(samples)
    assert cost.least_seconds(SQUARE, 1) <= min(samples)


def test_each_refusal_lowers_the_bounds_of_its_group_until_a_step_is_measured() -> None:
    cost = learnt({1: 1.0})
    cost.observe(WIDE, 1, *[1.0] * WARM)
    cost.observe_decode(8, 8, *[1.0] * WARM)
    for _ in range(20):
        cost.doubt(SQUARE)
    assert cost.least_seconds(SQUARE, 1) < 0.5
    assert cost.least_decode_seconds(SQUARE) < 0.5
    assert cost.least_seconds(WIDE, 1) == 1.0
    assert cost.step_seconds(SQUARE, 1) == 1.0
    cost.observe(SQUARE, 1, 1.0)
    assert cost.least_seconds(SQUARE, 1) == 1.0


def test_the_sizes_that_requests_choose_do_not_fill_the_memory() -> None:
    cost = learnt({1: 1.0})
    for height in range(2 * GROUPS_MAX):
        cost.observe(Group(Stage.BASE, height, 1), 1, 1.0)
        cost.observe_decode(height, 1, 1.0)
        cost.doubt(Group(Stage.BASE, height, 1))
        assert cost.least_seconds(SQUARE, 1) == 1.0, "what is in use stays"
    assert cost.step_seconds(Group(Stage.BASE, 0, 1), 1) is None


@pytest.mark.parametrize(("rows", "seconds"), [(1, 0.5), (2, 1.0), (3, 1.2), (4, 1.4), (8, 2.8)])
def test_unseen_sizes_lie_between_their_neighbours_or_in_proportion(rows: int, seconds: float) -> None:
    assert learnt({2: 1.0, 4: 1.4}).step_seconds(SQUARE, rows) == pytest.approx(seconds)


def test_groups_are_learnt_apart() -> None:
    cost = learnt({1: 1.0})
    assert cost.step_seconds(WIDE, 1) is None
    assert cost.step_seconds(Group(Stage.REFINER, 8, 8), 1) is None


def test_decoding_is_learnt_by_shape_for_every_stage() -> None:
    cost = CostModel()
    cost.observe_decode(8, 8, 60.0, 2.0, 1.0, 3.0)
    assert cost.least_decode_seconds(SQUARE) == 1.0
    assert cost.least_decode_seconds(Group(Stage.REFINER, 8, 8)) == 1.0
    assert cost.least_decode_seconds(WIDE) == 0


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


def test_a_slow_first_step_does_not_decide_that_a_size_is_used_no_more() -> None:
    cost = learnt({1: 1.0, 2: 1.2, 3: 1.4})
    cost.observe(SQUARE, 4, 180.0, 60.0)
    assert cost.best_rows(SQUARE, 4) == 4
    assert cost.step_seconds(SQUARE, 4) == pytest.approx(1.4 * 4 / 3)
    cost.observe(SQUARE, 4, 1.6, 1.6)
    assert cost.step_seconds(SQUARE, 4) == 1.6


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
        assert cost.least_seconds_at_most(SQUARE, slots) <= expected * (1 + 1e-9)
        assert cost.least_seconds(SQUARE, rows) <= expected * (1 + 1e-9)
    if rows <= min(slots, max(seen)):
        assert cost.least_seconds_per_row(SQUARE, slots) <= expected / rows * (1 + 1e-9)
