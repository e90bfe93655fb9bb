"""Three members of the group as one consumer: a call about a partition goes to the member of its topic."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker.intake.lane_members import (
    METADATA_FOR_S,
    RENEW_AFTER_S,
    LaneMembers,
    Renewal,
    cause_of,
    has_given_up,
    is_replaced,
)
from worker.intake.membership import QUIET_S
from worker.intake.patience import Patience

TOPICS = ("urgent", "high", "normal")
JOINED = b"CGMDv2:\x04\x00\x00\x00group\x00"


class Consumer:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.callbacks: dict[str, Callable[[Any, list[TopicPartition]], None]] = {}
        self.error: KafkaException | None = None
        self.left = self.hangs = False
        self.close: Callable[[], object] = lambda: None

    def subscribe(self, topics: list[str], **callbacks: Any) -> None:
        self.calls.append(("subscribe", topics))
        self.callbacks = callbacks

    def poll(self, timeout_s: float) -> None:
        self.calls.append(("poll", timeout_s))

    def consumer_group_metadata(self) -> bytes:
        assert not self.hangs, "this call would not return"
        if self.left:
            raise RuntimeError("Consumer closed")
        return JOINED

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert not asynchronous
        self.calls.append(("commit", names(offsets)))
        if self.error is not None:
            raise self.error

    def __getattr__(self, name: str) -> Any:
        def call(places: Any) -> None:
            self.calls.append((name, names(places) if isinstance(places, list) else names([places])))

        return call


def names(places: list[TopicPartition]) -> list[str]:
    return [f"{place.topic}/{place.partition}" for place in places]


class Site:
    def __init__(self) -> None:
        self.now = 0.0
        self.hanging: set[Any] = set()
        self.consumers = {topic: Consumer() for topic in TOPICS}
        self.heard: list[tuple[str, list[str]]] = []
        self.members = LaneMembers(cast("Any", self.consumers), Patience(TOPICS, self.monotonic, 300.0))

    def monotonic(self) -> float:
        return self.now

    def call(self, _name: str, function: Callable[[], object], timeout_s: float) -> bool:
        """As `Threads.call`."""
        if function in self.hanging:
            self.now += timeout_s
            return False
        function()
        return True

    def subscribe(self) -> None:
        self.members.subscribe(
            lambda places: self.heard.append(("assign", names(places))),
            lambda places: self.heard.append(("revoke", names(places))),
            lambda places: self.heard.append(("lost", names(places))),
        )

    def calls(self) -> dict[str, list[tuple[str, Any]]]:
        return {topic: consumer.calls for topic, consumer in self.consumers.items()}


PLACES = [TopicPartition("high", 1), TopicPartition("urgent", 0), TopicPartition("high", 2)]


@pytest.mark.parametrize("name", ["pause", "resume", "incremental_assign", "incremental_unassign"])
def test_partitions_go_to_the_member_of_their_topic(name: str) -> None:
    site = Site()
    getattr(site.members, name)(PLACES)
    assert site.calls() == {"urgent": [(name, ["urgent/0"])], "high": [(name, ["high/1", "high/2"])], "normal": []}


def test_each_member_has_one_topic_and_calls_back_for_it() -> None:
    site = Site()
    site.subscribe()
    assert site.calls() == {topic: [("subscribe", [topic])] for topic in TOPICS}
    for how in ("on_assign", "on_revoke", "on_lost"):
        site.consumers["high"].callbacks[how](site.consumers["high"], [TopicPartition("high", 1)])
    assert site.heard == [("assign", ["high/1"]), ("revoke", ["high/1"]), ("lost", ["high/1"])]


def test_they_are_assigned_when_all_three_are_and_none_has_been_thrown_out() -> None:
    site = Site()
    site.subscribe()
    for topic in TOPICS:
        assert not site.members.are_assigned
        site.consumers[topic].callbacks["on_assign"](site.consumers[topic], [])
    assert site.members.are_assigned
    site.consumers["normal"].callbacks["on_lost"](site.consumers["normal"], [])
    assert not site.members.are_assigned


def test_a_member_that_gets_no_partitions_has_its_assignment_all_the_same() -> None:
    """With KIP-848 nothing calls back where there are more workers than partitions."""
    site = Site()
    site.subscribe()
    site.members.metadata(0.0)
    assert not site.members.are_assigned
    site.members.metadata(QUIET_S)
    assert site.members.are_assigned


def test_metadata_of_one_moment_stays_as_it_is_and_a_member_that_left_keeps_its_last() -> None:
    site = Site()
    before = site.members.metadata(0.0)
    site.consumers["high"].left = True
    assert site.members.metadata(1.0) == before == dict.fromkeys(TOPICS, JOINED)
    with pytest.raises(TypeError):
        before["high"] = b""  # type: ignore[index]


def error(*, retriable: bool) -> KafkaException:
    return KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID, "", False, retriable, False))


def test_a_commit_that_one_member_is_refused_is_told_and_the_others_are_committed() -> None:
    site = Site()
    site.consumers["urgent"].error = error(retriable=False)
    site.consumers["high"].error = error(retriable=True)
    with pytest.raises(KafkaException) as raised:
        site.members.commit([TopicPartition(topic, 0) for topic in TOPICS])
    # What may be repeated must be: of a refusal nothing follows.
    assert raised.value.args[0].retriable()
    assert site.calls() == {topic: [("commit", [f"{topic}/0"])] for topic in TOPICS}


@pytest.mark.parametrize("hanging", TOPICS)
def test_one_that_hangs_while_it_leaves_does_not_keep_the_others_from_leaving(hanging: str) -> None:
    site = Site()
    closed: list[str] = []

    def closer(topic: str) -> Callable[[], None]:
        return lambda: closed.append(topic)

    for topic, consumer in site.consumers.items():
        consumer.close = closer(topic)
    site.hanging.add(site.consumers[hanging].close)
    site.members.leave(cast("Any", site), 20.0)
    assert closed == [topic for topic in TOPICS if topic != hanging]
    assert site.now <= 20.0


def test_one_that_hangs_is_asked_for_nothing_while_the_others_leave() -> None:
    """The call would wait for the `close` that hangs, within the callback of a member that leaves."""
    site = Site()
    site.subscribe()
    known = site.members.metadata(0.0)
    hanging, leaving = site.consumers["urgent"], site.consumers["high"]
    refused: list[KafkaException] = []

    def close() -> None:
        hanging.hangs = True
        hanging.calls.clear()
        leaving.callbacks["on_revoke"](leaving, [TopicPartition("high", 1)])

    def on_revoke(_places: list[TopicPartition]) -> None:
        assert site.members.metadata(1.0) == known
        leaving.calls.clear()
        try:
            site.members.commit([TopicPartition("high", 1), TopicPartition("urgent", 0)])
        except KafkaException as error:
            refused.append(error)

    site.members.subscribe(on_revoke, on_revoke, on_revoke)
    hanging.close, leaving.close = lambda: None, close
    site.hanging.add(hanging.close)
    site.members.leave(cast("Any", site), 20.0)
    assert leaving.calls == [("commit", ["high/1"])]
    assert hanging.calls == []
    assert [error.args[0].code() for error in refused] == [KafkaError._STATE]


def test_a_member_that_leaves_is_asked_for_nothing_after_a_callback_that_raised() -> None:
    site = Site()

    def raises(_places: list[TopicPartition]) -> None:
        raise KafkaException(KafkaError(KafkaError._STATE))

    site.members.subscribe(raises, raises, raises)
    hanging, leaving = site.consumers["urgent"], site.consumers["high"]
    with pytest.raises(KafkaException):
        hanging.callbacks["on_revoke"](hanging, [TopicPartition("urgent", 1)])
    hanging.hangs, site.hanging = True, {hanging.close}
    leaving.close = lambda: site.members.metadata(0.0)
    site.members.leave(cast("Any", site), 20.0)
    assert hanging.calls == [("subscribe", ["urgent"])]


def test_a_member_that_has_given_up_is_replaced_after_a_while() -> None:
    site = Site()
    new: list[Consumer] = []

    def make(_topic: str) -> Any:
        new.append(Consumer())
        return new[-1]

    renewal = Renewal(make, cast("Any", site))
    members = LaneMembers(cast("Any", site.consumers), Patience(TOPICS, site.monotonic, 300.0), renewal)
    members.subscribe(lambda _: None, lambda _: None, lambda places: site.heard.append(("lost", names(places))))
    old = site.consumers["high"]
    for topic in TOPICS:
        site.consumers[topic].callbacks["on_assign"](site.consumers[topic], [])
    late = old.callbacks["on_lost"]
    old.close = lambda: late(old, [TopicPartition("high", 1)])
    members.give_up("high", "for a reason")
    assert not members.are_assigned
    old.hangs = True
    members.metadata(1.0)
    site.now += RENEW_AFTER_S - 1
    assert members.poll("high", 0.0) is None
    assert new == []
    site.now += 1
    members.poll("high", 0.0)
    assert new[0].calls == [("subscribe", ["high"]), ("poll", 0.0)]
    new[0].callbacks["on_assign"](new[0], [])
    assert members.are_assigned
    late(old, [TopicPartition("high", 1)])
    assert members.are_assigned
    assert site.heard == [], "what it held is off the books before it leaves, and the new one's after that"


def fatal(cause: int) -> KafkaError:
    text = KafkaError(cause).str()
    return KafkaError(KafkaError._FATAL, f"Fatal error: ConsumerGroupHeartbeat fatal error: {text}")


@pytest.mark.parametrize(
    "cause",
    [
        *(KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.GROUP_ID_NOT_FOUND, KafkaError.GROUP_MAX_SIZE_REACHED),
        *(KafkaError.INVALID_REQUEST, KafkaError.UNKNOWN, KafkaError.UNRELEASED_INSTANCE_ID),
    ],
)
def test_after_any_fatal_error_a_member_is_replaced(cause: int) -> None:
    assert has_given_up(fatal(cause))
    assert not has_given_up(KafkaError(cause))


def test_a_member_whose_place_another_has_taken_stays_away() -> None:
    """With the same `group.instance.id` the two would throw each other out again and again."""
    error = fatal(KafkaError.FENCED_INSTANCE_ID)
    assert is_replaced(error)
    assert not has_given_up(error)
    assert not is_replaced(KafkaError(KafkaError.FENCED_INSTANCE_ID))


def test_the_want_of_a_right_is_told_from_other_fatal_errors() -> None:
    assert cause_of(fatal(KafkaError.GROUP_AUTHORIZATION_FAILED)).code() == KafkaError.GROUP_AUTHORIZATION_FAILED
    assert cause_of(fatal(KafkaError.INVALID_REQUEST)).code() == KafkaError._FATAL


def test_all_that_hang_take_no_more_than_the_time_for_all() -> None:
    site = Site()
    for consumer in site.consumers.values():
        consumer.close = lambda: None
        site.hanging.add(consumer.close)
    site.members.leave(cast("Any", site), 20.0)
    assert site.now == pytest.approx(20.0)


def test_group_metadata_is_looked_up_again_after_a_while_and_at_once_after_a_rebalance() -> None:
    """librdkafka's thread answers each look-up, and a loop of polls would do little else."""
    site = Site()
    site.subscribe()
    consumer = site.consumers["high"]
    before = site.members.metadata(0.0)
    looks: list[str] = []
    for topic, each in site.consumers.items():
        each.consumer_group_metadata = partial(_noted, looks, topic)  # type: ignore[method-assign]
    assert site.members.metadata(METADATA_FOR_S / 2) is before
    assert looks == []
    site.members.metadata(METADATA_FOR_S)
    assert looks == list(TOPICS)
    consumer.callbacks["on_assign"](consumer, [])
    site.members.metadata(METADATA_FOR_S)
    assert looks == [*TOPICS, *TOPICS]


def _noted(looks: list[str], topic: str) -> bytes:
    looks.append(topic)
    return JOINED
