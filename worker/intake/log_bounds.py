"""Where partitions begin and end, asked of the brokers without waiting, since the poll thread must not block.

librdkafka knows the watermarks of what it fetches, and nothing of a partition that is paused or whose fetch was
refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import structlog
from confluent_kafka import IsolationLevel, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stubs do not mark re-exports
    AdminClient,
    OffsetSpec,
)

from worker.intake.ledger import TopicPartition as Key
from worker.threads import Threads

_log = structlog.get_logger()

REQUEST_TIMEOUT_S = 5.0
ID_TIMEOUT_S = 3.0
_ID_TRIES, _ID_PAUSE_S = 3, 0.1
# Between two questions; each is about all partitions that anybody wants to know of.
INTERVAL_S = 1.0

EARLIEST, LATEST = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Bounds:
    """A partition's log.

    Args:
        first: the offset of its first record.
        end: the offset of the next record that a read_committed consumer will get.
        end_epoch: the leader epoch at the end; None where the broker does not tell.
    """

    first: int
    end: int
    end_epoch: int | None = None


@dataclass(slots=True)
class _Question:
    """Futures by partition and by topic."""

    firsts: dict[Key, Future[Any]]
    ends: dict[Key, Future[Any]]
    ids: dict[str, Future[Any]]

    def is_answered(self) -> bool:
        return all(future.done() for futures in (self.firsts, self.ends, self.ids) for future in futures.values())


@dataclass(slots=True)
class Answers:
    """What has come of one question; what failed is left out, but for its partitions in `failed`.

    `topic_ids` tells two topics of one name apart, where one was deleted and created again.
    """

    bounds: dict[Key, Bounds] = field(default_factory=dict)
    failed: set[Key] = field(default_factory=set)
    topic_ids: dict[str, str] = field(default_factory=dict)


class LogBounds:
    """One question at a time. The poll thread's."""

    def __init__(self, admin: AdminClient, threads: Threads) -> None:
        self._admin = admin
        self._threads = threads
        self._wanted: set[Key] = set()
        self._topics: set[str] = set()
        self._asked: _Question | None = None
        self._due = 0.0

    def want(self, keys: Iterable[Key]) -> None:
        """Ask for the bounds of these partitions with the next question, if they are not being asked for."""
        self._wanted.update(key for key in keys if self._asked is None or key not in self._asked.ends)

    def want_ids(self, topics: Iterable[str]) -> None:
        """Ask for the ids of these topics with the next question, if they are not being asked for."""
        self._topics.update(topic for topic in topics if self._asked is None or topic not in self._asked.ids)

    def is_asked(self, key: Key) -> bool:
        """Whether a question about this partition is under way. Its answer may be older than what is known since."""
        return self._asked is not None and key in self._asked.ends

    def poll(self, now: float) -> Answers:
        """What has been answered since the last call; asks the next question when it is time."""
        answers = Answers()
        # librdkafka hands out what came for this client, errors of its connections among it.
        self._admin.poll(0)
        if self._asked is not None:
            if not self._asked.is_answered():
                return answers
            answers, self._asked = _read(self._asked), None
        if now >= self._due and (self._wanted or self._topics):
            self._due = now + INTERVAL_S
            self._asked = self._ask(self._wanted, self._topics)
            self._wanted, self._topics = set(), set()
        return answers

    def ids_now(self, topics: Collection[str]) -> dict[str, str]:
        """The ids of these topics, as far as they are answered within `ID_TIMEOUT_S`. The only call that waits.

        A leader that moves gives an error, and the right answer a moment later.
        """
        ids: dict[str, str] = {}
        deadline = self._threads.monotonic() + ID_TIMEOUT_S
        for attempt in range(_ID_TRIES):
            missing = set(topics) - ids.keys()
            if not missing or self._threads.monotonic() >= deadline:
                break
            if attempt:
                self._threads.sleep(_ID_PAUSE_S)
            ids |= self._described(missing, deadline)
        return ids

    def _described(self, topics: set[str], deadline: float) -> dict[str, str]:
        try:
            futures = self._ids(topics)
        except KafkaException as error:
            _log.warning("topic_ids_not_asked", error=str(error))
            return {}
        ids = {}
        for topic, future in futures.items():
            with contextlib.suppress(KafkaException, TimeoutError):
                found = self._threads.answer(future, max(0.0, deadline - self._threads.monotonic()))
                ids[topic] = str(found.topic_id)
        return ids

    def _ask(self, keys: set[Key], topics: set[str]) -> _Question | None:
        places = {key: TopicPartition(*key) for key in keys}
        try:
            return _Question(self._offsets(places, EARLIEST), self._offsets(places, LATEST), self._ids(topics))
        except KafkaException as error:
            _log.warning("log_bounds_not_asked", error=str(error))
            return None

    def _offsets(self, places: dict[Key, TopicPartition], spec: OffsetSpec) -> dict[Key, Future[Any]]:
        if not places:
            return {}
        futures = self._admin.list_offsets(
            dict.fromkeys(places.values(), spec),
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=REQUEST_TIMEOUT_S,
        )
        return {(place.topic, place.partition): future for place, future in futures.items()}

    def _ids(self, topics: set[str]) -> dict[str, Future[Any]]:
        if not topics:
            return {}
        return dict(self._admin.describe_topics(TopicCollection(sorted(topics)), request_timeout=REQUEST_TIMEOUT_S))


def _read(question: _Question) -> Answers:
    answers = Answers()
    for key, future in question.ends.items():
        first, end = _result(question.firsts.get(key)), _result(future)
        if first is None or end is None:
            answers.failed.add(key)
            continue
        epoch = end.leader_epoch
        answers.bounds[key] = Bounds(first.offset, end.offset, None if epoch is None or epoch < 0 else epoch)
    for topic, future in question.ids.items():
        found = _result(future)
        if found is not None and found.topic_id is not None:
            answers.topic_ids[topic] = str(found.topic_id)
    return answers


def _result(future: Future[Any] | None) -> Any:
    """What a finished future holds; None for an error, such as a leader that moves at the moment."""
    return None if future is None or future.exception() is not None else future.result()
