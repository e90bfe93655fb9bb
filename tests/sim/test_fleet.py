"""Dispatchers and workers in simulated worlds: every request is passed on and answered once, whatever fault happens.

Run a single seed with `SIM_SEED=<seed> pytest tests/sim/test_fleet.py`. `FLEET_SEEDS=<count>` runs more seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from devtools.autoscaling.policy import WORK_OFFSETS_PER_REQUEST
from tests.sim.audit import Violation
from tests.sim.faults import LOST, Fault, Plan
from tests.sim.fleet_world import Fleet, FleetWorld, random_fleet
from tests.sim.requests import WORK_TOPICS
from tests.sim.world import quiet
from worker.delivery.exactly_once import ExactlyOnce
from worker.dispatch import dispatcher
from worker.intake.ledger import Ledger

CHUNKS = 4
FEW = 60


def seeds(chunk: int) -> Iterator[int]:
    if "SIM_SEED" in os.environ:
        return iter([int(os.environ["SIM_SEED"])][chunk:])
    return iter(range(chunk, int(os.environ.get("FLEET_SEEDS", "24")), CHUNKS))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_exactly_one_work_record_and_one_outcome_under_random_trouble(chunk: int) -> None:
    with quiet():
        for seed in seeds(chunk):
            world = FleetWorld(seed, random_fleet(seed))
            try:
                world.run()
            except Violation as violation:
                trouble = "\n".join(world.faults.trace)
                pytest.fail(f"{violation}\nrerun: SIM_SEED={seed} pytest tests/sim/test_fleet.py\n{trouble}")


def without_the_map(patch: pytest.MonkeyPatch) -> None:
    """A dispatcher sends out of order, and what is above an unsent request would be sent twice."""
    whole = Ledger._commit
    patch.setattr(Ledger, "_commit", lambda *args: replace(whole(*args), metadata=""))


def send_again_after_a_doubt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ExactlyOnce, "_took_place", lambda *_: False)


def write_it_now(patch: pytest.MonkeyPatch) -> None:
    whole = dispatcher.passed_on
    patch.setattr(dispatcher, "passed_on", lambda *args: replace(whole(*args), written_at=None))


def faulty(seed: int, faults: tuple[Fault, ...]) -> Fleet:
    fleet = random_fleet(seed)
    return replace(fleet, scenario=replace(fleet.scenario, plan=Plan(rate=0.1 if faults else 0.0, choices=faults)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "faults"),
    [
        (without_the_map, tuple(Fault)),
        (send_again_after_a_doubt, LOST),
        (write_it_now, ()),
    ],
)
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], faults: tuple[Fault, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with quiet():
        for seed in range(FEW):
            try:
                FleetWorld(seed, faulty(seed, faults)).run()
            except Violation:
                return
    pytest.fail(f"not found in {FEW} seeds")


def test_a_request_takes_two_offsets_of_a_work_topic_or_a_little_less() -> None:
    """KEDA's formula counts on it. Requests that are sent to a worker at once share the marker of their transaction."""
    offsets = requests = 0
    with quiet():
        for seed in range(6):
            fleet = faulty(seed, ())
            world = FleetWorld(seed, replace(fleet, lost_reports=0.0, clocks_off_s=0.0))
            world.run()
            requests += len(world.audit.drawn)
            offsets += sum(log.end for (topic, _), log in world.broker.logs.items() if topic in WORK_TOPICS.requests)
    assert requests > 30
    assert 0.75 * WORK_OFFSETS_PER_REQUEST < offsets / requests <= WORK_OFFSETS_PER_REQUEST
