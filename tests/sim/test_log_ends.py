"""Logs that lose their end or their beginning, and ends that lie above the last record."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from tests.sim.requests import TOPICS, Kind, Request, make
from tests.sim.world import Scenario, World, quiet

pytestmark = pytest.mark.slow

SEEDS = range(12)
KEY = (TOPICS.requests[2], 0)


def normal(first: int, count: int) -> list[Request]:
    return [make(n, Kind.GOOD, 2, f"job-{n}") for n in range(first, first + count)]


def lost(cause: str) -> float:
    return REGISTRY.get_sample_value("sdxl_worker_lost_offsets_total", {"cause": cause}) or 0.0


def sent(requests: list[Request], at: float, pause_s: float = 0.05) -> list[tuple[float, Request]]:
    return [(at + pause_s * n, request) for n, request in enumerate(requests)]


@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_log_that_loses_its_end_under_a_worker_repeats_nothing_and_skips_nothing(seed: int, share: float) -> None:
    """The new records have the offsets of the old ones, in the log and in the map of finished jobs."""
    before, after = normal(1, 8), normal(9, 12)
    world = World(seed, Scenario([*sent(before, 0.0), *sent(after, 4.0)], workers=1, partitions=1, trouble_s=15.0))
    counted = lost("lost_end")
    world.kernel.at(3.0, lambda: world.lose_end(KEY, share))
    with quiet():
        world.run()
    # What a paused partition had not read yet is nobody's loss.
    assert lost("lost_end") > counted or share == 0.9
    assert all(r.outcomes == ["completed"] for r in after)


@pytest.mark.parametrize("regrown", [0, 3, 20])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_log_that_lost_its_end_while_no_worker_ran_goes_on_there(seed: int, regrown: int) -> None:
    """Whether the new log is shorter than the committed offset or longer, nothing below its loss is repeated."""
    before, after, late = normal(1, 10), normal(11, regrown), normal(11 + regrown, 3)
    requests = [*sent(before, 0.0), *sent(after, 9.0, 0.0), *sent(late, 30.0)]
    world = World(seed, Scenario(requests, workers=1, partitions=1, drains=[7.0], trouble_s=40.0))
    world.kernel.at(8.0, lambda: world.lose_end(KEY, 0.6))
    with quiet():
        world.run()
    assert all(r.outcomes == ["completed"] for r in [*after, *late])


@pytest.mark.parametrize("seed", SEEDS)
def test_what_retention_took_unread_is_counted_and_the_rest_is_made(seed: int) -> None:
    """The lone worker is behind for so long that records expire which nobody has read."""
    requests = normal(1, 30)
    world = World(seed, Scenario(sent(requests, 0.0, 0.0), workers=1, partitions=1, trouble_s=20.0))
    counted, before = lost("retention"), lost("lost_end")
    gone: list[Request] = []

    def expire() -> None:
        start = world.broker.log(KEY).end - 3
        world.broker.expire(KEY, start)
        gone.extend(world.audit.lose(KEY, range(start)))

    world.kernel.at(0.5, expire)
    with quiet():
        world.run()
    unread = [request for request in gone if not request.outcomes]
    # Offsets, among them markers; and no record that had been read.
    assert unread
    assert len(unread) <= lost("retention") - counted < world.broker.log(KEY).start
    assert lost("lost_end") == before
    assert world.audit.requests
    assert all(r.outcomes == ["completed"] for r in world.audit.requests.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_partition_whose_records_have_all_expired_is_committed_to_its_end(seed: int) -> None:
    requests = normal(1, 6)
    world = World(seed, Scenario(sent(requests, 0.0), workers=1, partitions=1, drains=[8.0], trouble_s=20.0))
    key = (TOPICS.requests[0], 0)

    def expire() -> None:
        for _ in range(4):
            world.broker.append(key[0], b"k", b"", [])
        world.broker.expire(key, world.broker.log(key).end)

    # While it runs: when a worker leaves it commits all the same.
    seen: dict[tuple[str, int], tuple[int, str]] = {}
    world.kernel.at(0.0, expire)
    world.kernel.at(7.9, lambda: seen.update(world.broker.positions))
    with quiet():
        world.run()
    assert seen[key][0] == world.broker.positions[key][0] == world.broker.log(key).end == 4


@pytest.mark.parametrize("seed", SEEDS)
def test_every_assigned_partition_has_a_committed_offset(seed: int) -> None:
    world = World(seed, Scenario(sent(normal(1, 1), 0.0), workers=1, partitions=2, trouble_s=8.0))
    seen: set[tuple[str, int]] = set()
    world.kernel.at(7.9, lambda: seen.update(world.broker.positions))
    with quiet():
        world.run()
    assert seen == {(topic, n) for topic in TOPICS.requests for n in range(2)}


@pytest.mark.parametrize("drains", [[], [11.0]])
@pytest.mark.parametrize("regrown", [2, 20])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_topic_that_was_created_again_is_read_from_its_beginning(
    seed: int, regrown: int, drains: list[float]
) -> None:
    """Under the worker, or while none runs; and whether or not it has as many records as the old one had."""
    before, after = normal(1, 8), normal(9, regrown)
    # A worker has to see the new log before it is as long as the old one (docs/architecture.md says what is left).
    requests = [*sent(before, 0.0), *sent(after, 12.6, 0.0)]
    world = World(seed, Scenario(requests, workers=1, partitions=1, drains=drains, trouble_s=25.0))

    def recreate() -> None:
        world.audit.lose(KEY, range(world.broker.log(KEY).end))
        world.broker.recreate(KEY[0])

    world.kernel.at(12.0, recreate)
    with quiet():
        world.run()
    assert all(r.outcomes == ["completed"] for r in after)
