"""Calls that are slower than every timeout in the code: nothing is published for a partition that has gone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.sim.faults import SLOWEST_S, Fault, Plan, Port
from tests.sim.requests import Kind, make
from tests.sim.scenarios import random_scenario
from tests.sim.worker import SETTINGS
from tests.sim.world import Scenario, World, quiet
from worker.intake.consumer_proxy import COMMITTED_TIMEOUT_S, COMMITTED_WITHIN_S, LAST_TIMEOUT_S
from worker.intake.log_bounds import ID_TIMEOUT_S
from worker.intake.patience import SHARE
from worker.job import Lane
from worker.kafka_config import max_poll_interval_s
from worker.poll_waits import LAST_COMMIT_S, SETTLE_S
from worker.settings import Settings
from worker.telemetry.health import STALE_AFTER_S

pytestmark = pytest.mark.slow

SLOW = (Fault.SLOW_BEFORE, Fault.SLOW_AFTER)


def crowded(plan: Plan) -> Scenario:
    """One worker has everything, and others come one after another, so that its epoch stays while it gives up more."""
    requests = [(0.3 * n, make(n, Kind.GOOD, n % 3, f"job-{n}")) for n in range(1, 16)]
    return Scenario(requests, workers=1, partitions=4, plan=plan, joins=[3.0, 6.0, 9.0, 12.0], trouble_s=100.0)


@pytest.mark.parametrize(("seconds", "ends"), [(SETTLE_S - 10.0, False), (SLOWEST_S, True)])
def test_a_transaction_that_takes_long_to_open_is_waited_for_or_ends_the_process(
    seconds: float, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    happen = Port._happen

    def exactly(port: Port, fault: Fault | None, crash: Fault, stall: Fault, slow: Fault) -> None:
        if fault is slow:
            port.kernel.wait(port.process, seconds)
        else:
            happen(port, fault, crash, stall, slow)

    monkeypatch.setattr(Port, "_happen", exactly)
    # Calls of a flush that is under way while partitions go, as they published for partitions of others when the wait
    # was 30 s and its end meant nothing. Another order of calls makes them others.
    with quiet():
        worlds = [World(seed, crowded(Plan({call: Fault.SLOW_BEFORE}))) for seed, call in CALLS]
        for world in worlds:
            world.run()
    assert any(world.ends for world in worlds) == ends


CALLS = [(1, 41), (1, 54), (1, 55), (1, 56), (1, 57), (1, 58)]


def test_any_call_may_be_slower_than_every_timeout() -> None:
    with quiet():
        for seed in range(6):
            plan = Plan(rate=0.05, choices=SLOW)
            World(seed, replace(random_scenario(seed), plan=plan, joins=[2, 5, 9], drains=[4, 8], trouble_s=12.0)).run()


def test_the_poll_thread_is_never_silent_for_as_long_as_the_liveness_probe_is_patient() -> None:
    """Its heart beats while it waits, but not within the two calls that an assignment makes."""
    assert COMMITTED_TIMEOUT_S + ID_TIMEOUT_S < STALE_AFTER_S / 2
    # Nor would it be, if its heart did not beat and a single member had something to wait for.
    assert SETTLE_S + COMMITTED_WITHIN_S + ID_TIMEOUT_S < STALE_AFTER_S


def test_the_longest_waits_of_one_member_are_within_the_patience_of_the_group() -> None:
    """So nothing is cut short where only one of the lanes has something to wait for, whatever `REVOKE_TIMEOUT_S` is."""
    [longest_s] = [le.le for le in Settings.model_fields["revoke_timeout_s"].metadata if hasattr(le, "le")]
    interval_s = max_poll_interval_s(SETTINGS)
    assert longest_s + 2 * LAST_COMMIT_S + SETTLE_S < SHARE * interval_s
    assert SHARE * interval_s > SETTLE_S + COMMITTED_WITHIN_S + ID_TIMEOUT_S
    # What is asked even where no time is left, by each member.
    assert len(Lane) * (LAST_TIMEOUT_S + ID_TIMEOUT_S) < (1 - SHARE) * interval_s
