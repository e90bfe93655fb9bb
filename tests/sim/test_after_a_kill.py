"""After a kill, the jobs that were running are drawn again at once, and urgent ones hardly wait longer."""

from __future__ import annotations

from functools import cache

import pytest

from tests.sim.after_a_kill import JOBS, Run, measure
from worker.job import Lane

pytestmark = pytest.mark.slow

# When all slots hold urgent jobs: what has to be drawn again is part of what is measured.
KILLS_S = (1.1, 2.2)
LONGER_MAX = 1.5


@cache
def calm(seed: int) -> Run:
    """The run without a kill."""
    return measure(seed)


@pytest.mark.parametrize("kill_s", KILLS_S)
@pytest.mark.parametrize("seed", range(6))
def test_an_urgent_job_waits_hardly_longer_where_the_worker_is_killed(seed: int, kill_s: float) -> None:
    killed = measure(seed, kill_s)
    assert killed.worst_s[Lane.URGENT] <= LONGER_MAX * calm(seed).worst_s[Lane.URGENT]
    assert killed.total_s <= LONGER_MAX * calm(seed).total_s
    # Not the whole buffer: only what was running, about to run, or not durable yet.
    assert 0 < killed.suspects < JOBS / 2
