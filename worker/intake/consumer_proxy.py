"""Calls to the consumer from other threads, carried out by the one that polls.

A confluent-kafka consumer serves one call at a time, and a caller that waits for its turn starves beside a loop of
`poll` (tried with 2.16.1: a commit from another thread never returned). So the poll thread does them between two polls.

Committed offsets are asked of another client of the group, which never joins it. The member itself does not find out
where the coordinator went while a rebalance callback runs: `committed` there timed out again and again when the
coordinator's broker was killed at that moment, though it was back after 3 s (tried; the chaos run found it).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from worker.threads import Threads

# A poll thread that is gone, or held up by a rebalance, must not hold the publisher for ever.
ANSWER_TIMEOUT_S = 30.0

_Result = list[TopicPartition] | None


class ConsumerProxy:
    """`serve` is the poll thread's; the others wait for it."""

    def __init__(self, consumer: Consumer, offsets_reader: Consumer, threads: Threads) -> None:
        self._consumer = consumer
        self._offsets_reader = offsets_reader
        self._threads = threads
        self._waiting: deque[tuple[Callable[[], _Result], Future[_Result]]] = deque()
        self._poll_thread: object = None
        # Group metadata for transactions, as of the last poll.
        self.membership: Any = None

    def serve(self) -> None:
        """Do what waits, and look up the group membership."""
        self._poll_thread = self._threads.current()
        # Once a consumer that is being closed has left its group there is none; what is flushed then is refused.
        with contextlib.suppress(RuntimeError):
            self.membership = self._consumer.consumer_group_metadata()
        while self._waiting:
            request, answer = self._waiting.popleft()
            try:
                answer.set_result(request())
            except KafkaException as error:
                answer.set_exception(error)

    def commit(self, offsets: Sequence[TopicPartition]) -> None:
        """Commit and wait for the answer. Raises KafkaException."""
        self._ask(lambda: self._consumer.commit(offsets=list(offsets), asynchronous=False))

    def committed(self, partitions: Sequence[TopicPartition], timeout_s: float) -> list[TopicPartition]:
        """Committed offsets with their metadata. Raises KafkaException."""
        return self._offsets_reader.committed(list(partitions), timeout_s)

    def _ask(self, request: Callable[[], _Result]) -> _Result:
        if self._poll_thread in (None, self._threads.current()):
            return request()
        answer: Future[_Result] = Future()
        self._waiting.append((request, answer))
        try:
            return self._threads.answer(answer, ANSWER_TIMEOUT_S)
        except TimeoutError:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the poll loop does not answer")) from None
