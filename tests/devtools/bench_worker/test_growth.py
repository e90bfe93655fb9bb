"""The bench of backlogs, small. No time is asserted."""

from __future__ import annotations

import math

import pytest

from devtools.bench.worker import growth


def test_steps_and_polls_are_measured_at_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "LARGE", 1_000)
    monkeypatch.setattr(growth, "CALLS", 3)
    found = growth.grown((10, 100))
    assert found.keys() == {
        *("step_cost_growth", "step_us_at_10", "step_us_at_100"),
        *("poll_cost_growth", "poll_us_at_10", "poll_us_at_100"),
    }
    assert all(len(values) == 1 and math.isfinite(values[0]) for values in found.values())


def test_a_poll_leaves_as_many_jobs_waiting_as_there_were() -> None:
    backlog = growth.Backlog(10)
    waiting = len(backlog.starts.waiting())
    assert waiting == 10 - growth.ROOM, "the engine has its part"
    for _ in range(20):
        backlog.poll()
    assert len(backlog.starts.waiting()) == waiting
    assert backlog.ledger.unfinished() == 10
