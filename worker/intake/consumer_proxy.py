"""Calls to the group members from other threads, carried out by the one that polls.

A confluent-kafka consumer serves one call at a time, and a caller that waits for its turn starves beside a loop of
`poll` (tried with 2.16.1: a commit from another thread never returned). So the poll thread does them between two polls.

Committed offsets are asked of another client of the group, which never joins it. The member itself does not find out
where the coordinator went while a rebalance callback runs: `committed` there timed out again and again when the
coordinator's broker was killed at that moment, though it was back after 3 s (tried; the chaos run found it).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker.intake.lane_members import LaneMembers
from worker.intake.patience import Patience
from worker.threads import Threads

# A poll thread that is gone, or held up by a rebalance, must not hold the publisher for ever.
ANSWER_TIMEOUT_S = 30.0
# How long an assignment may wait for its committed offsets: a dead predecessor's transaction and a coordinator that
# moves take less.
COMMITTED_WITHIN_S = 45.0
COMMITTED_TIMEOUT_S = 10.0
# Of the one question that is asked even where other waits have left no time.
LAST_TIMEOUT_S = 1.0
_PAUSE_S = 0.1
# A coordinator that has moved tells what was committed as of its old high watermark until that advances (KAFKA-15910),
# which took a second or two on a busy machine. Whoever was assigned partitions by the coordinator before and asks this
# one would read records that have ended. Such a move shows in an answer that is late or an error.
PROMPT_S = 0.5
SETTLED_S = 3.0
# While no broker answers, a client has 20 error events a second for whoever polls it.
_READER_POLL_S = 1.0

_log = structlog.get_logger()

_Result = list[TopicPartition] | None


class OffsetsReader(Protocol):
    """A client that reads a group's committed offsets and never joins it (`confluent_kafka.Consumer`)."""

    def committed(self, partitions: list[TopicPartition], timeout_s: float, /) -> list[TopicPartition]: ...
    def poll(self, timeout_s: float, /) -> object: ...


class OffsetsUnknown(Exception):
    """The coordinator does not say what is committed, so that partitions of these topics cannot be opened."""

    def __init__(self, topics: set[str], within_s: float, error: KafkaException) -> None:
        super().__init__(f"no committed offsets within {within_s:.0f} s: {error}")
        self.topics = topics


class ConsumerProxy:
    """`serve` and `committed_at_assignment` are the poll thread's; the other callers wait for `serve`.

    Args:
        beat: called by `serve`, and so while the poll thread waits: its waits are bounded, so it is alive.
    """

    def __init__(
        self,
        members: LaneMembers,
        offsets_reader: OffsetsReader,
        threads: Threads,
        patience: Patience,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._members = members
        self._offsets_reader = offsets_reader
        self._threads = threads
        self._patience = patience
        self._beat = beat
        self._waiting: deque[tuple[Callable[[], _Result], Future[_Result]]] = deque()
        self._poll_thread: object = None
        self._reading = 0
        self._reader_polled_at = 0.0
        # Answers to questions from then on count.
        self._settled_at = float("-inf")
        # Group metadata for transactions by topic, as of the last poll; replaced as a whole, and never changed.
        self.membership: Mapping[str, Any] = {}

    def serve(self) -> None:
        """Do what waits, and look up the group membership."""
        self._beat()
        self._poll_thread = self._threads.current()
        self.membership = self._members.metadata(self._threads.monotonic())
        self._serve_reader()
        while self._waiting:
            request, answer = self._waiting.popleft()
            try:
                answer.set_result(request())
            except KafkaException as error:
                answer.set_exception(error)

    def commit(self, offsets: Sequence[TopicPartition]) -> None:
        """Commit and wait for the answer. Raises KafkaException."""
        self._ask(lambda: self._members.commit(offsets))

    def committed(self, partitions: Sequence[TopicPartition], timeout_s: float) -> list[TopicPartition]:
        """Committed offsets with their metadata.

        Raises:
            KafkaException: there is no answer, or none that counts: one that is late, or follows trouble too soon.
        """
        self._reading += 1
        asked_at = self._threads.monotonic()
        try:
            answers = _sound(self._offsets_reader.committed(list(partitions), timeout_s))
        except KafkaException:
            self._settled_at = self._threads.monotonic() + SETTLED_S
            raise
        finally:
            self._reading -= 1
        now = self._threads.monotonic()
        if now - asked_at > PROMPT_S:
            self._settled_at = now + SETTLED_S
        if asked_at < self._settled_at:
            raise KafkaException(
                KafkaError(KafkaError._TIMED_OUT, "the coordinator may have moved, and is asked again")
            )
        return answers

    def committed_at_assignment(self, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        """Committed offsets with their metadata, for the poll thread inside a rebalance.

        Raises:
            OffsetsUnknown: there is no answer within `COMMITTED_WITHIN_S`, or the time that `Patience` leaves.
        """
        within_s = min(COMMITTED_WITHIN_S, self._patience.left_s())
        deadline = self._threads.monotonic() + within_s
        while True:
            left_s = deadline - self._threads.monotonic()
            try:
                return self.committed(partitions, max(LAST_TIMEOUT_S, min(COMMITTED_TIMEOUT_S, left_s)))
            except KafkaException as error:
                if self._threads.monotonic() >= deadline - LAST_TIMEOUT_S:
                    raise OffsetsUnknown({place.topic for place in partitions}, within_s, error) from error
                _log.warning("committed_failed", error=str(error))
            self.serve()
            self._threads.sleep(_PAUSE_S)

    def _serve_reader(self) -> None:
        """Take the reader's events, which nobody else polls; not beside a call of another thread, which would block."""
        now = self._threads.monotonic()
        if self._reading == 0 and now - self._reader_polled_at >= _READER_POLL_S:
            self._reader_polled_at = now
            self._offsets_reader.poll(0)

    def _ask(self, request: Callable[[], _Result]) -> _Result:
        if self._poll_thread in (None, self._threads.current()):
            return request()
        answer: Future[_Result] = Future()
        self._waiting.append((request, answer))
        try:
            return self._threads.answer(answer, ANSWER_TIMEOUT_S)
        except TimeoutError:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the poll loop does not answer")) from None


def _sound(answers: list[TopicPartition]) -> list[TopicPartition]:
    """The answers, unless one of them is an error."""
    failed = next((answer.error for answer in answers if answer.error is not None), None)
    if failed is not None:
        raise KafkaException(failed)
    return answers
