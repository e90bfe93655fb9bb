"""The whole worker in simulated worlds: every request gets exactly one outcome, whatever fault happens.

Run a single seed with `SIM_SEED=<seed> pytest tests/sim/test_simulation.py`. `SIM_SEEDS=<count>` runs more seeds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.sim.audit import Violation
from tests.sim.scenarios import random_scenario
from tests.sim.world import World, quiet

CHUNKS = 20


def seeds(chunk: int) -> Iterator[int]:
    if "SIM_SEED" in os.environ:
        return iter([int(os.environ["SIM_SEED"])][chunk:])
    count = int(os.environ.get("SIM_SEEDS", "400"))
    return iter(range(chunk, count, CHUNKS))


def run(seed: int) -> World:
    world = World(seed, random_scenario(seed))
    try:
        world.run()
    except Violation as violation:
        trouble = "\n".join(world.faults.trace)
        pytest.fail(f"{violation}\nrerun: SIM_SEED={seed} pytest tests/sim/test_simulation.py\n{trouble}")
    return world


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_exactly_one_outcome_under_random_trouble(chunk: int) -> None:
    with quiet():
        for seed in seeds(chunk):
            run(seed)


def test_a_seed_gives_the_same_world_again() -> None:
    with quiet():
        one, other = run(7), run(7)
    assert one.faults.calls == other.faults.calls
    assert one.broker.positions == other.broker.positions
    assert one.kernel.now == other.kernel.now
