"""In a few scenarios, every I/O call fails, crashes or stalls once, in every way that it can.

Run a single case with `SIM_CALL=<number> pytest tests/sim/test_every_call.py -k '<scenario> and <fault>'`.
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
# Most polls bring nothing, and a crash at one is a crash at any moment: in longer runs, every so many are tried.
POLLS = 20


@cache
def calls(name: str) -> list[str]:
    """The calls of the undisturbed run."""
    with quiet():
        world = World(SEED, BY_HAND[name](Plan()))
        world.run()
    return world.faults.calls


# What stops the whole process before a call does what it does after the process's call before that: one of each name.
AS_AFTER_THE_LAST = (Fault.CRASH_BEFORE, Fault.STALL_BEFORE)


def chosen(name: str, fault: Fault) -> list[tuple[int, str]]:
    """The calls of a scenario that can have this fault, by number."""
    numbered = [(number, call) for number, call in enumerate(calls(name), start=1) if fault in faults_of(call)]
    if fault in AS_AFTER_THE_LAST:
        return sorted((number, call) for call, number in {call: number for number, call in reversed(numbered)}.items())
    polls = [entry for entry in numbered if entry[1] == "poll"]
    return [entry for entry in numbered if entry[1] != "poll"] + polls[:: len(polls) // POLLS + 1]


@pytest.mark.slow
@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("name", BY_HAND)
def test_each_call_in_turn(name: str, fault: Fault) -> None:
    only = os.environ.get("SIM_CALL")
    with quiet():
        for number, call in chosen(name, fault):
            if only not in (None, str(number)):
                continue
            world = World(SEED, BY_HAND[name](Plan({number: fault})))
            try:
                world.run()
            except Violation as violation:
                case = f"-k '{name} and {fault}'"
                pytest.fail(f"{violation}\ncall {number}, {call}; rerun: SIM_CALL={number} pytest {__file__} {case}")
