"""Every I/O call of a few scenarios fails, crashes or stalls once, in each way that it can.

One case alone: `SIM_CALL=<number> pytest tests/sim/test_every_call.py -k '<scenario> and <fault>'`.
"""

from __future__ import annotations

import os
from functools import cache

import pytest

from tests.sim.audit import Violation
from tests.sim.faults import Fault, Plan, faults_of
from tests.sim.scenarios import BY_HAND
from tests.sim.world import World, quiet

SEED = 1


@cache
def calls(name: str) -> list[str]:
    """The calls of the undisturbed run."""
    with quiet():
        world = World(SEED, BY_HAND[name](Plan()))
        world.run()
    return world.faults.calls


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("name", BY_HAND)
def test_each_call_in_turn(name: str, fault: Fault) -> None:
    only = os.environ.get("SIM_CALL")
    with quiet():
        for number, call in enumerate(calls(name), start=1):
            if fault not in faults_of(call) or only not in (None, str(number)):
                continue
            world = World(SEED, BY_HAND[name](Plan({number: fault})))
            try:
                world.run()
            except Violation as violation:
                case = f"-k '{name} and {fault}'"
                pytest.fail(f"{violation}\ncall {number}, {call}; rerun: SIM_CALL={number} pytest {__file__} {case}")
