"""A worker's members of the consumer group, one for each request topic (lane), as one consumer.

With a member for all topics, an assignor either keeps the lanes even and moves nearly everything when a worker comes or
goes (`range`), or moves little and gives a worker any number of partitions of a lane (`uniform`, `cooperative-sticky`).
With a member per topic it does neither: every worker has its even part of each lane, and nothing moves between others.

Every call here is about partitions, and their topic says which member it is for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.intake.membership import FirstAssignment
from worker.intake.patience import Patience
from worker.telemetry import metrics
from worker.threads import Threads

_log = structlog.get_logger()

OnPartitions = Callable[[list[TopicPartition]], None]

# How long after a member has given up a new one takes its place.
RENEW_AFTER_S = 10.0
# How long a look at the group metadata counts while nothing is rebalanced: librdkafka's own thread answers each, which
# takes longer than to decode a record.
METADATA_FOR_S = 0.02
_CLOSE_S = 5.0
# confluent-kafka tells of a fatal error of a consumer only in words what it is.
_NO_RIGHT = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED).str()
_REPLACED = KafkaError(KafkaError.FENCED_INSTANCE_ID).str()


@dataclass(frozen=True, slots=True)
class Renewal:
    """How a member is replaced.

    Args:
        make: a new consumer for a topic, which has not subscribed yet.
    """

    make: Callable[[str], Consumer]
    threads: Threads


def has_given_up(error: KafkaError) -> bool:
    """Whether a consumer is of no use any more, for a reason that may pass.

    With KIP-848 librdkafka (2.16) gives up for good where the right on the group is gone, where the coordinator knows
    the group no more, where the group is full, and at any other answer to a heartbeat that it does not repeat.
    """
    return _is_fatal(error) and _REPLACED not in error.str()


def is_replaced(error: KafkaError) -> bool:
    """Whether another member has come with the same `group.instance.id`; then this one must not come back."""
    return _is_fatal(error) and _REPLACED in error.str()


def _is_fatal(error: KafkaError) -> bool:
    return error.fatal() or error.code() == KafkaError._FATAL


def cause_of(error: KafkaError) -> KafkaError:
    """The error of the group that a fatal error is about, where it can be told."""
    if _NO_RIGHT in error.str():
        return KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)
    return error


class LaneMembers:
    """The poll thread's, but for `are_assigned` and `leave`.

    Args:
        consumers: by topic; none of them has subscribed yet.
    """

    def __init__(self, consumers: Mapping[str, Consumer], patience: Patience, renewal: Renewal | None = None) -> None:
        self._consumers = dict(consumers)
        self._renewal = renewal
        # Members that are out of use, and when to replace them, in the monotonic clock's seconds.
        self._out_of_use: dict[str, float] = {}
        self._callbacks: dict[str, dict[str, Callable[[Consumer, list[TopicPartition]], None]]] = {}
        self._patience = patience
        self._first = {topic: FirstAssignment() for topic in consumers}
        self._metadata: Mapping[str, Any] = MappingProxyType({})
        self._metadata_until = float("-inf")
        # A member that is left behind while it leaves may call back when it is another's turn.
        self._one_callback = threading.RLock()
        self._calling_back: str | None = None
        self._leaving: set[str] = set()

    @property
    def are_assigned(self) -> bool:
        """Whether the group has given each member its partitions, be it none. Any thread may ask."""
        return all(first.arrived for first in self._first.values())

    def subscribe(self, on_assign: OnPartitions, on_revoke: OnPartitions, on_lost: OnPartitions) -> None:
        """Join the group, each with its topic. The callbacks are called within `poll` and `leave`, one at a time."""
        for topic, consumer in self._consumers.items():
            first = self._first[topic]
            self._callbacks[topic] = {
                "on_assign": self._callback(topic, on_assign, first.on_assigned),
                "on_revoke": self._callback(topic, on_revoke),
                "on_lost": self._callback(topic, on_lost, first.on_lost),
            }
            consumer.subscribe([topic], **self._callbacks[topic])

    def _callback(
        self, topic: str, call: OnPartitions, then: Callable[[], None] = lambda: None
    ) -> Callable[[Consumer, list[TopicPartition]], None]:
        def callback(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            with self._one_callback:
                if topic in self._out_of_use or consumer is not self._consumers[topic]:
                    return  # what one that has given up held is off the books, and may be another's here by now
                self._calling_back = topic
                try:
                    call(partitions)
                    then()
                finally:
                    self._calling_back = None
                    self._metadata_until = float("-inf")

        return callback

    def _may_ask(self, topic: str) -> bool:
        """Whether a call to this member returns. One that leaves answers only within its own callback: another call
        would wait for its `close`, which may hang, and then no member could leave."""
        return topic == self._calling_back or not (topic in self._leaving or topic in self._out_of_use)

    def give_up(self, topic: str, why: str) -> None:
        """The member is of no use any more: it leaves, and another one takes its place a while later.

        What it holds is taken from the books before: nobody is called back for it any more.

        Raises:
            RuntimeError: this worker cannot make another one.
        """
        if self._renewal is None:
            raise RuntimeError(f"the member of {topic} is out of use: {why}")
        threads = self._renewal.threads
        if topic in self._out_of_use:
            return
        metrics.MEMBERS_REPLACED.inc()
        _log.error("member_out_of_use", topic=topic, why=why, another_in_s=RENEW_AFTER_S)
        self._out_of_use[topic] = threads.monotonic() + RENEW_AFTER_S
        self._leave(topic, threads, _CLOSE_S)
        self._first[topic].on_lost()

    def _is_in_use(self, topic: str) -> bool:
        due = self._out_of_use.get(topic)
        if due is None:
            return True
        assert self._renewal is not None
        if self._renewal.threads.monotonic() < due:
            return False
        self._consumers[topic] = self._renewal.make(topic)
        del self._out_of_use[topic]
        self._consumers[topic].subscribe([topic], **self._callbacks[topic])
        _log.info("member_renewed", topic=topic)
        return True

    def poll(self, topic: str, timeout_s: float) -> Message | None:
        """Poll one member; each of them has to be, again and again."""
        self._patience.polled(topic)
        return self._consumers[topic].poll(timeout_s) if self._is_in_use(topic) else None

    def metadata(self, now: float) -> Mapping[str, Any]:
        """The group metadata for transactions by topic, not older than the last rebalance. `now` in seconds.

        What is returned does not change any more, so it stands for one moment. An older one is harmless: the brokers
        refuse it where the member's epoch has changed since.
        """
        if now < self._metadata_until and self._calling_back is None and not self._leaving:
            return self._metadata
        self._metadata_until = now + METADATA_FOR_S
        fresh = {}
        for topic, consumer in self._consumers.items():
            # Also of one that leaves, in its own last callback, where librdkafka may never answer
            # (`SystemThreads.call`): its epoch changes while others leave, and its last commit needs the new one.
            if not self._may_ask(topic):
                continue
            # Once a consumer that is being closed has left, there is none; what is flushed with the old one is refused.
            with contextlib.suppress(RuntimeError):
                fresh[topic] = consumer.consumer_group_metadata()
                self._first[topic].observe(fresh[topic], now)
        self._metadata = MappingProxyType({**self._metadata, **fresh})
        return self._metadata

    def commit(self, offsets: Sequence[TopicPartition]) -> None:
        """Commit each member's offsets and wait for the answers.

        Raises:
            KafkaException: some were not committed, perhaps those of one member only. One that may be repeated comes
                before those that may not.
        """
        errors = []
        for topic, own in _by_topic(offsets).items():
            if not self._may_ask(topic):
                errors.append(KafkaException(KafkaError(KafkaError._STATE, "the member is leaving the group")))
                continue
            try:
                self._consumers[topic].commit(offsets=own, asynchronous=False)
            except KafkaException as error:
                errors.append(error)
        if errors:
            raise min(errors, key=lambda error: not error.args[0].retriable())

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Read these partitions, too."""
        for topic, own in _by_topic(partitions).items():
            self._consumers[topic].incremental_assign(own)

    def incremental_unassign(self, partitions: Sequence[TopicPartition]) -> None:
        """Read these partitions no more."""
        for topic, own in _by_topic(partitions).items():
            self._consumers[topic].incremental_unassign(own)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Fetch nothing of these partitions."""
        for topic, own in _by_topic(partitions).items():
            self._consumers[topic].pause(own)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Fetch paused partitions again."""
        for topic, own in _by_topic(partitions).items():
            self._consumers[topic].resume(own)

    def seek(self, place: TopicPartition) -> None:
        """Read on from another offset. Raises KafkaException."""
        self._consumers[place.topic].seek(place)

    def watermarks(self, topic: str, partition: int) -> tuple[int, int] | None:
        """First offset and end of a partition as the last fetch told them; None before one did, −1001 for unknown."""
        return self._consumers[topic].get_watermark_offsets(TopicPartition(topic, partition), cached=True)

    def leave(self, threads: Threads, within_s: float) -> None:
        """Leave the group with each member; what does not return is left behind and only missed by the group later.

        Args:
            within_s: for all of them; one that hangs takes no more than its part.
        """
        deadline = threads.monotonic() + within_s
        members = [topic for topic in self._consumers if topic not in self._out_of_use]
        for left, topic in zip(range(len(members), 0, -1), members, strict=True):
            part_s = max(0.0, deadline - threads.monotonic()) / left
            self._leaving.add(topic)
            self._leave(topic, threads, part_s)

    def _leave(self, topic: str, threads: Threads, within_s: float) -> None:
        # librdkafka's close waits without a limit for a coordinator that goes away at that moment.
        if not threads.call("leave", self._consumers[topic].close, within_s):
            _log.warning("group_not_left", topic=topic, waited_s=round(within_s, 1))


def _by_topic(partitions: Iterable[TopicPartition]) -> dict[str, list[TopicPartition]]:
    found: dict[str, list[TopicPartition]] = {}
    for place in partitions:
        found.setdefault(place.topic, []).append(place)
    return found
