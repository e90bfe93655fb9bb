"""The simulated fleet: what a dispatcher is for, and that the policy's choices show in the waits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from devtools.bench.fleet.search import STEP, highest_load
from devtools.bench.fleet.simulate import Fleet, keeps_bounds, with_dispatch, without_dispatch
from devtools.cli import bench_fleet
from worker.cli import app
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


def test_fewer_changes_of_loras_with_affinity_and_every_bound_is_kept() -> None:
    fleet = Fleet(EIGHT, 0.85, 4_000, loras=200, change_s=0.1)
    with_, without = with_dispatch(fleet, 1), with_dispatch(replace(fleet, affinity=False), 1)
    assert with_.changes_share < 0.72 * without.changes_share
    assert with_.reads_share < 0.87 * without.reads_share
    assert keeps_bounds(with_, BOUNDS)


def test_the_highest_load_is_searched_for() -> None:
    fleet = Fleet((3.0,) * 2, 0.0, 3_000)
    found = highest_load(with_dispatch, fleet, 1)
    assert keeps_bounds(with_dispatch(replace(fleet, load=found), 1), BOUNDS)
    assert not keeps_bounds(with_dispatch(replace(fleet, load=found + STEP), 1), BOUNDS)
    assert highest_load(with_dispatch, Fleet((300.0,), 0.0, 300), 1) == 0.0


def test_the_bench_prints_and_writes_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_fleet, "LEAST_REQUESTS", 600)
    monkeypatch.setattr(bench_fleet, "CHOICES_S", 0.05)
    out = tmp_path / "fleet.json"
    result = CliRunner().invoke(app, ["bench", "fleet", "--workers", "2", "--out", str(out)])
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    [row] = report["simulated"]
    assert report["choices_per_cpu_s"]["2"] > 0
    assert f"{row['load_at_bounds']:.0%}" in result.output
    assert max(map(len, result.output.splitlines())) <= 80
