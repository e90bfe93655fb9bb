"""The transactional producer, with the one call that librdkafka lets wait for ever made to keep its timeout."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from worker.errors import WorkerError

# The library's own answer comes first wherever it gives one.
GRACE_S = 1.0
# Calls that were left behind and may hold their producers, each with its threads, until a connection comes or goes.
LEFT_BEHIND_MAX = 8
_CALLS = "offsets"


class CallsLeftBehind(WorkerError):
    """Too many calls without an answer are under way; only the end of the process ends them."""


class TransactionalProducer(Producer):
    """A producer whose `send_offsets_to_transaction` returns in time, if need be without an answer.

    librdkafka (up to 2.15) asks for the group's coordinator without a limit. A coordinator that is not there yet, as
    after a restart of its broker, is asked for three times, `retry.backoff.ms` apart, and then only once a connection
    of this client comes or goes: without that the call never returns, whatever its timeout (tried: 15 s with a timeout
    of 2 s, and it went on as soon as the broker bounced). `rd_kafka_coord_req` keeps a timeout that nobody reads.
    """

    def send_offsets_to_transaction(
        self, positions: list[TopicPartition], group_metadata: Any, timeout: float = -1.0
    ) -> None:
        """Add `positions` to the transaction.

        After `_TIMED_OUT` the call may still be under way on a thread of its own: let go of this producer. Whatever it
        does later is refused, once another with its `transactional.id` has been opened.

        Raises:
            KafkaException: it failed, or took longer than `timeout` seconds.
            CallsLeftBehind: `LEFT_BEHIND_MAX` calls of this process have been given up and have not returned.
        """
        under_way = sum(thread.name == _CALLS for thread in threading.enumerate())
        if under_way >= LEFT_BEHIND_MAX:
            raise CallsLeftBehind(f"{under_way} calls of send_offsets_to_transaction have not returned")
        answer: Future[None] = Future()

        def call() -> None:
            try:
                Producer.send_offsets_to_transaction(self, positions, group_metadata, timeout)
            except BaseException as error:  # raised anew for who waits
                answer.set_exception(error)
            else:
                answer.set_result(None)

        # Not of an executor, whose threads Python waits for at its end.
        threading.Thread(target=call, name=_CALLS, daemon=True).start()
        try:
            answer.result(None if timeout < 0 else timeout + GRACE_S)
        except TimeoutError:
            message = "send_offsets_to_transaction gave no answer"
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, message)) from None
