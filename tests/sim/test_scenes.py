"""Single scenarios: a job that kills the process, an outage of S3, a repeated id, a zombie producer."""

from __future__ import annotations

import pytest

from tests.sim.requests import Kind, Request, again, make
from tests.sim.world import Scenario, World, quiet

SEEDS = range(15)


def play(seed: int, scenario: Scenario) -> World:
    with quiet():
        world = World(seed, scenario)
        world.run()
    return world


def good(count: int) -> list[Request]:
    return [make(n, Kind.GOOD, n % 3, f"job-{n}") for n in range(1, count + 1)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_job_that_kills_is_given_up_after_three_starts_and_its_neighbours_complete(seed: int) -> None:
    poison = make(99, Kind.POISON, 1, "poison", "poison")
    requests = [*good(6), poison]
    world = play(seed, Scenario([(0.05 * n, r) for n, r in enumerate(requests)], workers=2, partitions=1))
    assert (poison.outcomes, poison.runs, world.crashes) == (["failed crash_loop"], 3, 3)
    assert all(r.outcomes == ["completed"] for r in requests[:-1])


@pytest.mark.parametrize("seed", range(8))
def test_of_several_jobs_that_kill_each_is_given_up_and_nobody_else(seed: int) -> None:
    poison = [make(90 + n, Kind.POISON, n, f"poison-{n}", "poison") for n in range(3)]
    requests = [poison[0], *good(6), poison[1], *good(12)[6:], poison[2]]
    scenario = Scenario([(0.1 * n, r) for n, r in enumerate(requests)], workers=1, partitions=1, slots=4, buffer=16)
    world = play(seed, scenario)
    assert all(r.outcomes == ["failed crash_loop"] for r in poison)
    # The last one for certain; before, another may have killed the process first.
    assert all(world.audit.most_starts[r.number] == 3 and 1 <= r.runs <= 3 for r in poison)
    assert all(r.outcomes == ["completed"] for r in requests if r not in poison)
    assert world.crashes <= 9


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_fails_while_s3_is_down(seed: int) -> None:
    requests = good(12)
    scenario = Scenario([(0.0, r) for r in requests], workers=1, partitions=1, outages=[(0.0, 20.0)], trouble_s=20.0)
    world = play(seed, scenario)
    assert all(r.outcomes == ["completed"] and r.runs == 1 for r in requests)
    assert world.crashes == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_repeated_id_is_answered_from_the_store(seed: int) -> None:
    first = make(1, Kind.GOOD, 2, "same")
    copies = [again(2, first, 2), again(3, first, 0)]
    other = make(4, Kind.GOOD, 2, "same", "another picture")
    requests = [(0.0, first), (4.0, copies[0]), (4.0, copies[1]), (6.0, other)]
    play(seed, Scenario(requests, workers=1, partitions=1, trouble_s=8.0))
    assert (first.runs, copies[0].runs, copies[1].runs, other.runs) == (1, 0, 0, 0)
    assert all(copy.outcomes == ["completed"] for copy in copies)
    assert other.outcomes == ["failed invalid_request"]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_clean_handover_repeats_no_finished_work(seed: int) -> None:
    requests = good(8)
    scenario = Scenario(
        [(0.1 * n, r) for n, r in enumerate(requests)], workers=2, drains=[0.5, 3.0], joins=[1.0], trouble_s=4.0
    )
    play(seed, scenario)
    assert all(r.outcomes == ["completed"] for r in requests)


@pytest.mark.parametrize("seed", SEEDS)
def test_workers_that_come_back_after_their_session_are_harmless(seed: int) -> None:
    requests = good(10)
    scenario = Scenario(
        [(0.1 * n, r) for n, r in enumerate(requests)], workers=3, stalls=[0.4, 0.8, 1.2, 9.0], trouble_s=15.0
    )
    play(seed, scenario)
    assert all(len(r.outcomes) == 1 for r in requests)
