"""However many lanes have to wait one after another, the poll thread comes back to each member in time."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker.intake.consumer_proxy import COMMITTED_WITHIN_S, SETTLED_S, ConsumerProxy, OffsetsUnknown
from worker.intake.ledger import Ledger
from worker.intake.patience import Patience
from worker.lifecycle.lifecycle import Lifecycle
from worker.poll_waits import SETTLE_S, PollWaits

TOPICS = ("urgent", "high", "normal")
INTERVAL_S = 300.0
LONGEST_REVOKE_S = 180.0


class Ended(BaseException):
    """The process is gone."""


class Process:
    """A poll thread whose waits take as long as they may: the longest flushes, one after another, and late answers."""

    def __init__(self, revoke_timeout_s: float, *, flush_s: float, answer_s: float) -> None:
        self.now = 1_000.0
        self.idle = False
        self.engine = self.publisher = cast("Any", self)
        self._flush_s, self._answer_s = flush_s, answer_s
        self._asked_at: float | None = None
        self.ledger = Ledger()
        self.patience = Patience(TOPICS, self.monotonic, INTERVAL_S)
        members = cast("Any", SimpleNamespace(metadata=lambda _now: {}))
        self.proxy = ConsumerProxy(members, cast("Any", self), cast("Any", self), self.patience)
        self.lifecycle = Lifecycle(
            self.ledger,
            *cast("Any", (None, None, None, None, self, PollWaits(cast("Any", self), self.patience, self.proxy.serve))),
            make_engine=lambda _: cast("Any", self),
            make_publisher=lambda _: cast("Any", self),
            cancellation_of=lambda _: None,
            crash_loop_limit=3,
            revoke_timeout_s=revoke_timeout_s,
            wait_bounds_s=(1.0, 1.0, 1.0),
        )

    # As threads.

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.1)

    def current(self) -> object:
        return self

    def end(self, reason: str) -> NoReturn:
        raise Ended(reason)

    # As the engine and the publisher.

    def release(self, _keep: Any, *, started: bool) -> None: ...

    def enqueue(self, _item: Any, _now: float) -> None: ...

    @property
    def flush_under_way(self) -> int | None:
        return int(self.now // self._flush_s) if self._flush_s else None

    # As the client that asks for committed offsets.

    def poll(self, _timeout_s: float) -> None: ...

    def committed(self, places: list[TopicPartition], timeout_s: float) -> list[TopicPartition]:
        self._asked_at = self.now if self._asked_at is None else self._asked_at
        left_s = self._asked_at + self._answer_s - self.now
        self.now += min(timeout_s, max(0.0, left_s))
        if left_s > timeout_s:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return places

    # As intake.

    def revoke(self, topic: str) -> None:
        self.ledger.assign(topic, 0, 0, None)
        self.ledger.deliver(topic, 0, 0)
        self.lifecycle.partitions.release_partitions([(topic, 0)])
        self.ledger.revoke([(topic, 0)])
        self.lifecycle.partitions.wait_for_flush()

    def assign(self, topic: str) -> None:
        self.lifecycle.partitions.wait_for_flush()
        self._asked_at = None
        self.proxy.committed_at_assignment([TopicPartition(topic, 0)])

    def nothing(self, _topic: str) -> None: ...


@pytest.mark.parametrize("happens", list(itertools.product(["revoke", "assign", "nothing"], repeat=3)))
@pytest.mark.parametrize("revoke_timeout_s", [10.0, LONGEST_REVOKE_S])
def test_every_member_is_polled_in_time_whatever_the_lanes_wait_for(
    happens: tuple[str, ...], revoke_timeout_s: float
) -> None:
    process = Process(revoke_timeout_s, flush_s=SETTLE_S - 1, answer_s=COMMITTED_WITHIN_S - SETTLED_S - 2)
    polled = dict.fromkeys(TOPICS, process.now)
    try:
        for topic, what in list(zip(TOPICS, happens, strict=True)) * 2:
            process.patience.polled(topic)
            polled[topic] = process.now
            getattr(process, what)(topic)
            assert process.now - min(polled.values()) <= INTERVAL_S
    except (Ended, OffsetsUnknown):
        # Then the group notices by itself; but one lane alone has enough time for all that it may wait for.
        assert happens.count("nothing") < 2
    assert process.now - min(polled.values()) <= INTERVAL_S


def test_the_jobs_of_lanes_that_are_revoked_one_after_another_share_the_time() -> None:
    process = Process(LONGEST_REVOKE_S, flush_s=0.0, answer_s=0.0)
    before = process.now
    for topic in TOPICS:
        process.patience.polled(topic)
        process.revoke(topic)
    # Beside the last commits, which do not come through either.
    assert LONGEST_REVOKE_S <= process.now - before < LONGEST_REVOKE_S + 35.0
