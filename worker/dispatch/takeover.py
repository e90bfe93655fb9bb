"""Where a dispatcher group begins in a fleet that has worked without dispatchers: where the workers have stopped.

Without a committed offset of its own, a group would read the request topics from their beginning, and pass on again
what was drawn long ago. So it takes over the offsets of the workers' group, with their notes of what is finished above
them, once no worker reads the request topics any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from worker.intake.consumer_proxy import OffsetsReader

_log = structlog.get_logger()

_GRACE_S = 1.0


class Takeover:
    """An `OffsetsReader` of the dispatchers' group. One thread uses it at a time.

    Args:
        own: reads the offsets of the dispatchers' group.
        workers: reads those of the workers' group.
        still_reading: which of these topics members of the workers' group read, within so many seconds; raises
            KafkaException.
    """

    def __init__(
        self,
        own: OffsetsReader,
        workers: OffsetsReader,
        still_reading: Callable[[Collection[str], float], Collection[str]],
    ) -> None:
        self._own = own
        self._workers = workers
        self._still_reading = still_reading

    def poll(self, timeout_s: float) -> object:
        """Take the clients' events."""
        self._workers.poll(0)
        return self._own.poll(timeout_s)

    def committed(self, partitions: list[TopicPartition], timeout_s: float) -> list[TopicPartition]:
        """Committed offsets with their metadata, of partitions without one those of the workers.

        Raises:
            KafkaException: an answer is missing, or a worker still reads a topic that is to be taken over.
        """
        answers = self._own.committed(partitions, timeout_s)
        new = [TopicPartition(p.topic, p.partition) for p in answers if p.error is None and p.offset < 0]
        if not new:
            return answers
        busy = self._still_reading({place.topic for place in new}, timeout_s)
        if busy:
            text = f"workers still read {', '.join(sorted(busy))}: stop them, or start them with INPUT=work"
            raise KafkaException(KafkaError(KafkaError._STATE, text))
        past = {(p.topic, p.partition): p for p in self._workers.committed(new, timeout_s)}
        taken = [p for p in past.values() if p.error is None and p.offset >= 0]
        if taken:
            _log.info("offsets_taken_over", partitions=[f"{p.topic}/{p.partition}@{p.offset}" for p in taken])
        return [past.get((answer.topic, answer.partition), answer) for answer in answers]


def takeover(own: Consumer, workers: Consumer, admin: AdminClient, group: str) -> Takeover:
    """Take over from the workers' group; `workers` and `admin` are clients that never join it."""

    def still_reading(topics: Collection[str], timeout_s: float) -> set[str]:
        future = admin.describe_consumer_groups([group], request_timeout=timeout_s)[group]
        try:
            members = future.result(timeout_s + _GRACE_S).members
        except TimeoutError:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
        return {place.topic for member in members for place in _held(member.assignment)} & set(topics)

    return Takeover(own, workers, still_reading)


def _held(assignment: object) -> Sequence[TopicPartition]:
    return getattr(assignment, "topic_partitions", None) or ()
