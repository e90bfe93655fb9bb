"""The simulation finds bugs: each bug here is planted, and is found within a few seeds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaException

from tests.sim.audit import Violation
from tests.sim.faults import DELAYS, LOST, Fault, Plan
from tests.sim.requests import TOPICS
from tests.sim.scenarios import random_scenario
from tests.sim.world import Scenario, World, quiet
from worker.delivery.exactly_once import ExactlyOnce
from worker.delivery.publish import Publisher
from worker.delivery.transport import Encoded, Offset
from worker.intake import consumer_proxy
from worker.intake.end_watch import EndWatch
from worker.intake.lane_members import LaneMembers
from worker.intake.ledger import Commit, Ledger, TopicPartition
from worker.job import Job, Origin
from worker.lifecycle.storing import Storing
from worker.picture import Picture

pytestmark = pytest.mark.slow

FEW = 200


def publish_before_the_upload(patch: pytest.MonkeyPatch) -> None:
    def store(storing: Storing, picture: Picture) -> None:
        finisher, endings, now = storing._finisher, storing._endings, storing._threads.now()
        nowhere: Any = SimpleNamespace(put_picture=lambda *_: None, url=finisher.store.url)
        event = replace(finisher, store=nowhere).finish(picture, now)
        outcome = endings._messages.completed(picture.job, event, now)
        endings._publisher.enqueue(outcome, storing._threads.monotonic())
        finisher.finish(picture, now)

    patch.setattr(Storing, "_store", store)


def commit_the_highest_offset(patch: pytest.MonkeyPatch) -> None:
    lowest = Ledger._commit

    def commit(ledger: Ledger, key: TopicPartition, finishing: Any) -> Commit:
        position = ledger._partitions[key].position
        assert position is not None
        return replace(lowest(ledger, key, finishing), offset=position, metadata="")

    patch.setattr(Ledger, "_commit", commit)


def forget_the_map(patch: pytest.MonkeyPatch) -> None:
    whole = Ledger._commit
    patch.setattr(Ledger, "_commit", lambda *args: replace(whole(*args), metadata=""))


def ignore_the_epoch(patch: pytest.MonkeyPatch) -> None:
    def owns(ledger: Ledger, origin: Origin) -> bool:
        book = ledger._partitions.get((origin.topic, origin.partition))
        return book is not None and book.delivered.get(origin.offset) is False

    patch.setattr(Ledger, "owns", owns)


def send_again_after_a_doubt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ExactlyOnce, "_took_place", lambda *_: False)


def let_a_doubt_outlive_its_flush(patch: pytest.MonkeyPatch) -> None:
    """A bug that was there before the simulation: what took place stayed in doubt, and the next flush was not sent."""
    send = ExactlyOnce.send

    def doubtful(transport: ExactlyOnce, records: Sequence[Encoded], *rest: Any, again: bool) -> None:  # noqa: ARG001
        doubt: Sequence[Offset] = transport._in_doubt
        send(transport, records, *rest, again=True)
        transport._in_doubt = transport._in_doubt or doubt

    prepare = ExactlyOnce.prepare
    patch.setattr(ExactlyOnce, "send", doubtful)
    patch.setattr(ExactlyOnce, "prepare", lambda transport, **_: prepare(transport, again=True))


def ask_for_the_membership_too_late(patch: pytest.MonkeyPatch) -> None:
    """A bug that was there before the simulation: a new membership with an old look into the books."""

    class Late:
        def __init__(self, group: Any, topic: str) -> None:
            self._group, self._topic = group, topic

        def __getattr__(self, name: str) -> Any:
            return getattr(self._group.membership[self._topic], name)

    def membership(transport: ExactlyOnce) -> Any:
        return {topic: Late(transport._group, topic) for topic in TOPICS.requests}

    patch.setattr(ExactlyOnce, "membership", membership)


def send_all_offsets_in_the_name_of_one_member(patch: pytest.MonkeyPatch) -> None:
    """A member that is out of the group would be covered by another that is not."""
    send = ExactlyOnce._send_offsets

    def as_one(transport: ExactlyOnce, producer: Any, offsets: Sequence[Offset], membership: Any) -> None:
        one = next(iter(membership.values()))
        send(transport, producer, offsets, dict.fromkeys(membership, one))

    patch.setattr(ExactlyOnce, "_send_offsets", as_one)


def go_on_without_the_lane_that_is_refused(patch: pytest.MonkeyPatch) -> None:
    send = ExactlyOnce._send_offsets

    def lane_by_lane(transport: ExactlyOnce, producer: Any, offsets: Sequence[Offset], membership: Any) -> None:
        for topic in TOPICS.requests:
            producer._must_abort = False
            with suppress(KafkaException):
                send(transport, producer, [offset for offset in offsets if offset.topic == topic], membership)
        producer._must_abort = False

    patch.setattr(ExactlyOnce, "_send_offsets", lane_by_lane)


def start_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    begin = Publisher._begin

    def hasty(publisher: Publisher, job: Job, batch: Any) -> None:
        begin(publisher, job, batch)
        while batch.starts:
            publisher._hooks.on_started(*batch.starts.pop())

    patch.setattr(Publisher, "_begin", hasty)


def believe_a_coordinator_that_has_just_moved(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(consumer_proxy, "SETTLED_S", 0.0)
    patch.setattr(consumer_proxy, "PROMPT_S", float("inf"))


EVERYTHING = tuple(Fault)


def restless(seed: int, faults: tuple[Fault, ...]) -> Scenario:
    """Many faults of some kinds, and the group hardly comes to rest."""
    return replace(
        random_scenario(seed), plan=Plan(rate=0.1, choices=faults), workers=2, joins=[1, 3, 5, 7, 9], drains=[4, 8]
    )


@pytest.mark.parametrize(
    ("plant", "faults"),
    [
        (publish_before_the_upload, EVERYTHING),
        (commit_the_highest_offset, EVERYTHING),
        (forget_the_map, EVERYTHING),
        (ignore_the_epoch, DELAYS),
        (send_again_after_a_doubt, LOST),
        (let_a_doubt_outlive_its_flush, LOST),
        (ask_for_the_membership_too_late, DELAYS),
        (send_all_offsets_in_the_name_of_one_member, DELAYS),
        (go_on_without_the_lane_that_is_refused, DELAYS),
        (start_before_it_is_durable, EVERYTHING),
        (believe_a_coordinator_that_has_just_moved, (Fault.RETRIABLE, Fault.OUTAGE)),
    ],
)
def test_a_planted_bug_is_found(plant: Any, faults: tuple[Fault, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with quiet():
        for seed in range(FEW):
            try:
                World(seed, restless(seed, faults)).run()
            except Violation:
                return
    pytest.fail(f"not found in {FEW} seeds")


def seek_left_out(patch: pytest.MonkeyPatch) -> None:
    """A bug that was there before: librdkafka compares leader epochs only where it is made to seek."""
    patch.setattr(LaneMembers, "seek", lambda *_: None)


def answer_that_is_older_than_the_loss(patch: pytest.MonkeyPatch) -> None:
    """A bug that was there before: the log's bounds of before the loss decided where to go on after it."""
    patch.setattr(EndWatch, "_ask_anew", lambda *_: None)


def losing_an_end(seed: int) -> Scenario:
    """A log loses its end, in every second world while nobody reads it, and what is sent then is written over it."""
    scenario = random_scenario(seed)
    drains = [2.0] if seed % 2 else []
    quiet_scenario = replace(scenario, plan=Plan(), kills=[], stalls=[], joins=[], drains=drains, older=0)
    return replace(quiet_scenario, workers=1, partitions=1, lost_ends=[2.5, 4.5], trouble_s=12.0)


@pytest.mark.parametrize("plant", [None, seek_left_out, answer_that_is_older_than_the_loss])
def test_a_planted_bug_about_lost_ends_is_found(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if plant is not None:
        plant(monkeypatch)
    with quiet():
        for seed in range(FEW):
            try:
                World(seed, losing_an_end(seed)).run()
            except Violation:
                assert plant is not None
                return
    assert plant is None, f"not found in {FEW} seeds"
