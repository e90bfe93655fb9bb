"""Brokers that refuse records: what is refused is one record's trouble, and the others' outcomes come all the same."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from tests.sim.requests import TOPICS, Kind, Request, make
from tests.sim.world import Scenario, World, quiet
from worker.intake.consumer_proxy import COMMITTED_WITHIN_S

pytestmark = pytest.mark.slow

SEEDS = range(10)


def mixed() -> list[Request]:
    """Good ones in every lane, an invalid one, and two that are no request."""
    good = [make(n, Kind.GOOD, n % 3, f"job-{n}") for n in range(1, 9)]
    bad = [
        make(9, Kind.INVALID, 1, "job-9"),
        make(10, Kind.UNDECODABLE, 0, "bad-1"),
        make(11, Kind.UNDECODABLE, 2, "bad-2"),
    ]
    return [*good, *bad]


def world(seed: int, requests: list[Request], trouble_s: float = 6.0) -> World:
    sent = [(0.05 * n, request) for n, request in enumerate(requests)]
    return World(seed, Scenario(sent, workers=2, partitions=2, trouble_s=trouble_s))


def answered_without(seed: int, topic: str, requests: list[Request]) -> list[int]:
    """The requests that have their outcome while `topic` is missing; it is there again after 15 s."""
    play = world(seed, requests, trouble_s=20.0)
    play.broker.missing.add(topic)
    answered: list[int] = []
    play.kernel.at(15.0, lambda: answered.extend(r.number for r in requests if r.outcomes))
    play.kernel.at(15.0, lambda: play.broker.missing.discard(topic))
    with quiet():
        play.run()
    return answered


@pytest.mark.parametrize("seed", SEEDS)
def test_a_dead_letter_topic_that_is_missing_for_a_while_costs_nobody_else_anything(seed: int) -> None:
    requests = mixed()
    answered = answered_without(seed, TOPICS.dead_letter, requests)
    assert answered == [r.number for r in requests if r.kind is not Kind.UNDECODABLE]
    assert all(r.outcomes == ["dead-letter"] for r in requests if r.kind is Kind.UNDECODABLE)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_failed_topic_that_is_missing_holds_back_failures_and_no_picture(seed: int) -> None:
    requests = mixed()
    answered = answered_without(seed, TOPICS.failed, requests)
    assert answered == [r.number for r in requests if r.kind is not Kind.INVALID]


@pytest.mark.parametrize("seed", SEEDS)
def test_completed_events_that_are_too_large_become_failed_ones(seed: int) -> None:
    large = make(1, Kind.GOOD, 0, "large", "x" * 3_000)
    others = [make(n, Kind.GOOD, n % 3, f"job-{n}") for n in range(2, 8)]
    play = world(seed, [large, *others])
    play.broker.max_bytes[TOPICS.completed] = 2_500
    with quiet():
        play.audit.expect(large, "failed internal")
        play.run()
    assert large.outcomes == ["failed internal"]
    assert all(request.outcomes == ["completed"] for request in others)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_right_on_the_group_that_is_gone_for_a_while_ends_no_worker(seed: int) -> None:
    """librdkafka's members give up for good; new ones take their places, and nothing is lost or done twice."""
    requests = mixed()
    play = world(seed, requests, trouble_s=60.0)
    play.kernel.at(0.4, lambda: setattr(play.broker, "group_is_forbidden", True))
    answered: list[int] = []
    play.kernel.at(30.0, lambda: answered.extend(r.number for r in requests if r.outcomes))
    play.kernel.at(30.0, lambda: setattr(play.broker, "group_is_forbidden", False))
    with quiet():
        play.run()
    assert len(answered) < len(requests)
    assert (play.crashes, play.ends) == (0, [])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_coordinator_that_does_not_tell_offsets_for_long_ends_no_worker(seed: int) -> None:
    """Brokers that are away when partitions come: the chaos run met it where they took a minute to start."""
    requests = mixed()
    play = world(seed, requests, trouble_s=150.0)
    play.broker.offsets_are_silent = True
    answered: list[int] = []
    play.kernel.at(2.5 * COMMITTED_WITHIN_S, lambda: answered.extend(r.number for r in requests if r.outcomes))
    play.kernel.at(2.5 * COMMITTED_WITHIN_S, lambda: setattr(play.broker, "offsets_are_silent", False))
    with quiet():
        play.run()
    assert answered == []
    assert (play.crashes, play.ends) == (0, [])


@pytest.mark.parametrize("cause", [KafkaError.GROUP_ID_NOT_FOUND, KafkaError.INVALID_REQUEST, KafkaError.UNKNOWN])
def test_heartbeats_that_are_refused_for_good_end_no_worker(cause: int) -> None:
    """As where the coordinator knows the group no more, or the group is full, or for a reason that nobody foresaw."""
    requests = mixed()
    play = world(1, requests, trouble_s=60.0)
    refused = play.broker.group.refused
    play.kernel.at(0.4, lambda: refused.update(dict.fromkeys(play.broker.group.members, KafkaError(cause))))
    with quiet():
        play.run()
    assert refused
    assert (play.crashes, play.ends) == (0, [])
    assert all(request.outcomes for request in requests)
