"""The simulated fleet: what a dispatcher is for, and that the policy's choices show in the waits."""

from __future__ import annotations

from devtools.bench.fleet.simulate import Fleet, keeps_bounds, with_dispatch, without_dispatch
from worker.dispatch.policy import BOUNDS_S
from worker.job import Lane

BOUNDS = tuple(BOUNDS_S.values())
EIGHT = (3.0,) * 8


def test_eight_workers_keep_the_bounds_at_a_load_of_85_percent_and_not_without_a_dispatcher() -> None:
    fleet = Fleet(EIGHT, 0.85, 6_000)
    assert keeps_bounds(with_dispatch(fleet, 1), BOUNDS)
    assert not keeps_bounds(without_dispatch(fleet, 1), BOUNDS)
    assert not keeps_bounds(without_dispatch(Fleet(EIGHT, 0.65, 6_000), 1), BOUNDS)
    # Overload is no matter of choice, and the simulation must show it.
    assert not keeps_bounds(with_dispatch(Fleet(EIGHT, 1.05, 6_000), 1), BOUNDS)


def test_an_urgent_request_waits_for_one_hop() -> None:
    assert with_dispatch(Fleet(EIGHT, 0.9, 6_000), 1).quantile_s(Lane.URGENT, 0.99) < 1.0


def test_fast_and_slow_cards_together_keep_the_bounds() -> None:
    assert keeps_bounds(with_dispatch(Fleet((3.0,) * 4 + (1.2,) * 4, 0.85, 6_000), 1), BOUNDS)


def test_fewer_changes_of_loras_with_affinity() -> None:
    def changes(affinity: bool) -> float:
        fleet = Fleet((3.0,) * 32, 0.85, 4_000, loras=200, change_s=0.1, affinity=affinity)
        return with_dispatch(fleet, 1).changes_share

    assert changes(True) < 0.7 * changes(False)
