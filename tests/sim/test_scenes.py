"""Single scenarios: a job that kills the process, an outage of S3, a repeated id, a zombie producer."""

from __future__ import annotations

import pytest

from tests.sim.audit import Violation
from tests.sim.requests import TOPICS, Kind, Request, again, make
from tests.sim.world import Scenario, World, quiet
from worker.intake.reopen import Reopener
from worker.job import Lane

SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 15))]


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


def forgotten(seed: int) -> tuple[World, list[Request]]:
    """The clients stop fetching in mid-run, and say nothing of it."""
    requests = good(9)
    world = World(seed, Scenario([(0.9 * n, r) for n, r in enumerate(requests)], workers=2, trouble_s=12.0))

    def forget() -> None:
        for worker in world.processes:
            worker.forget_to_fetch()

    world.kernel.at(3.0, forget)
    return world, requests


@pytest.mark.parametrize("seed", SEEDS)
def test_partitions_that_the_client_leaves_paused_are_opened_again(seed: int) -> None:
    with quiet():
        world, requests = forgotten(seed)
        world.run()
    assert all(r.outcomes == ["completed"] and r.runs == 1 for r in requests)


def test_otherwise_their_records_would_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reopener, "look", lambda *_: None)
    with quiet(), pytest.raises(Violation, match="never finished"):
        forgotten(0)[0].run()


@pytest.mark.parametrize("classic", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_workers_with_one_member_are_replaced_one_by_one_by_those_with_three(seed: int, classic: bool) -> None:
    """A rolling upgrade: the group is mixed for a while, and nothing is lost or made twice."""
    requests = good(12)
    scenario = Scenario(
        [(0.4 * n, r) for n, r in enumerate(requests)],
        workers=2,
        older=2,
        classic=classic,
        drains=[1.0, 3.5],
        joins=[1.5, 4.0],
        trouble_s=8.0,
    )
    play(seed, scenario)
    assert all(r.outcomes == ["completed"] for r in requests)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_member_that_is_thrown_out_does_not_hold_up_the_other_lanes_for_long(seed: int) -> None:
    """Its worker learns of it at the next poll; what it has for that lane is done again, and nothing comes twice."""
    requests = good(9)
    world = World(seed, Scenario([(0.3 * n, r) for n, r in enumerate(requests)], workers=2, trouble_s=6.0))

    def throw_out(lane: Lane) -> None:
        member = world.processes[0].member(TOPICS.requests[lane])
        assert member is not None
        world.broker.group.leave(member)

    for delay, lane in ((0.8, Lane.URGENT), (1.4, Lane.NORMAL), (1.9, Lane.HIGH)):
        world.kernel.at(delay, lambda lane=lane: throw_out(lane))  # type: ignore[misc]
    with quiet():
        world.run()
    assert all(r.outcomes == ["completed"] for r in requests)
    assert world.crashes == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_workers_that_come_back_after_their_session_are_harmless(seed: int) -> None:
    requests = good(10)
    scenario = Scenario(
        [(0.1 * n, r) for n, r in enumerate(requests)], workers=3, stalls=[0.4, 0.8, 1.2, 9.0], trouble_s=15.0
    )
    play(seed, scenario)
    assert all(len(r.outcomes) == 1 for r in requests)
