"""In a few scenarios, an I/O call fails, crashes or stalls: each call in some ways, each kind of call in every way.

The calls of a name are dealt out to the faults, as cards are: a fault gets every `STRIDE`th of them, the next fault
those after these. `SIM_STRIDE=1` tries each call with each fault, which takes almost three times as long.
Run a single case with `SIM_CALL=<number> pytest tests/sim/test_every_call.py -k '<scenario> and <fault>'`.
"""

from __future__ import annotations

import os
from collections import defaultdict
from functools import cache
from random import Random

import pytest

from tests.sim.audit import Violation
from tests.sim.faults import Fault, Plan, faults_of
from tests.sim.scenarios import BY_HAND
from tests.sim.world import World, quiet

SEED = 1
STRIDE = int(os.environ.get("SIM_STRIDE", "4"))
# Of a name with few calls, a fault gets more than its share.
LEAST = 4
# Most polls bring nothing, and a crash at one is a crash at any moment: in longer runs, so many are tried.
POLLS = 20 // min(STRIDE, 2)


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
    """The calls of a scenario in which this fault happens, by number."""
    by_call: dict[str, list[int]] = defaultdict(list)
    for number, call in enumerate(calls(name), start=1):
        if fault in faults_of(call):
            by_call[call].append(number)
    if fault in AS_AFTER_THE_LAST:
        return sorted((numbers[0], call) for call, numbers in by_call.items())
    return sorted((number, call) for call, numbers in by_call.items() for number in dealt(call, numbers, fault))


def dealt(call: str, numbers: list[int], fault: Fault) -> list[int]:
    """What a fault gets of the calls of one name; the order is shuffled, since calls recur in patterns."""
    most = len(numbers) // POLLS + 1 if call == "poll" else STRIDE
    stride = min(most, max(1, len(numbers) // LEAST))
    shuffled = Random(call).sample(numbers, len(numbers))
    turns = [each for each in faults_of(call) if each not in AS_AFTER_THE_LAST]
    return shuffled[turns.index(fault) % stride :: stride]


@pytest.mark.parametrize("name", BY_HAND)
def test_every_call_has_a_fault(name: str) -> None:
    tried = {entry for fault in Fault for entry in chosen(name, fault) if entry[1] != "poll"}
    assert tried == {entry for entry in enumerate(calls(name), start=1) if entry[1] != "poll"}


@pytest.mark.slow
@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("name", BY_HAND)
def test_each_call_in_turn(name: str, fault: Fault) -> None:
    only = os.environ.get("SIM_CALL")
    tried = chosen(name, fault) if only is None else [(int(only), calls(name)[int(only) - 1])]
    with quiet():
        for number, call in tried:
            world = World(SEED, BY_HAND[name](Plan({number: fault})))
            try:
                world.run()
            except Violation as violation:
                case = f"-k '{name} and {fault}'"
                pytest.fail(f"{violation}\ncall {number}, {call}; rerun: SIM_CALL={number} pytest {__file__} {case}")
