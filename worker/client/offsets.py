"""Asking a broker for offsets, with an answer in time (`reach`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from confluent_kafka import Consumer, KafkaException, TopicPartition

from worker.client.reach import in_slices

T = TypeVar("T")
Place = tuple[str, int]

REQUEST_TIMEOUT_S = 15.0


def in_time(call: Callable[[float], T]) -> T:
    """Repeat a call, which gets a short timeout in seconds, for `REQUEST_TIMEOUT_S`. Raises KafkaException."""
    return in_slices(call, give_up=lambda waited_s: waited_s > REQUEST_TIMEOUT_S)


def offsets_at(consumer: Consumer, places: Iterable[Place], timestamp_ms: int) -> dict[Place, int]:
    """The first offsets at or after a time, or at `OFFSET_END`; negative where there is none. Raises KafkaException."""
    asked = [TopicPartition(*place, timestamp_ms) for place in places]
    return in_time(lambda slice_s: _by_place(consumer.offsets_for_times(asked, timeout=slice_s)))


def committed_offsets(consumer: Consumer, places: Iterable[Place]) -> dict[Place, int]:
    """What the consumer's group has committed; negative for a partition without a commit. Raises KafkaException."""
    asked = [TopicPartition(*place) for place in places]
    return in_time(lambda slice_s: _by_place(consumer.committed(asked, timeout=slice_s)))


def _by_place(answers: Sequence[TopicPartition]) -> dict[Place, int]:
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
    return {(answer.topic, answer.partition): answer.offset for answer in answers}
