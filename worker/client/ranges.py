"""Read ranges of partitions in batches: for verbs that read a great deal, and follow nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.client.connection import Connection
from worker.client.errors import CommandError
from worker.client.offsets import in_time, offsets_at
from worker.client.reach import KNOWS_LEADERS, reach

BATCH = 1_000
# Without a record and without an end for so long, the broker is taken to be gone.
SILENCE_S = 20.0
# A batch that is not full is waited for this long.
_POLL_S = 0.05
_PASSING = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE})


@dataclass(frozen=True, slots=True)
class Range:
    """The offsets [first, end) of one partition, and the offset `low` at which the partition begins."""

    topic: str
    partition: int
    low: int
    first: int
    end: int


class RangeReader:
    """A consumer of ranges, read_committed, outside any group.

    Raises:
        CommandError: Kafka does not answer.
    """

    def __init__(self, connection: Connection) -> None:
        self._trouble = connection.trouble()
        fixed: dict[str, Any] = {
            "group.id": "sdxl-worker-cli",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "allow.auto.create.topics": False,
            "error_cb": self._trouble,
        }
        own = {"fetch.wait.max.ms": 50, "queued.min.messages": 50_000, "queued.max.messages.kbytes": 65_536}
        self._consumer = Consumer(own | KNOWS_LEADERS | connection.config() | fixed)
        self._servers = connection.settings.kafka_bootstrap_servers

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def ranges(self, topics: Sequence[str], since_ms: int | None = None, until_ms: int | None = None) -> list[Range]:
        """The ranges of all partitions that hold the records from one time to another (milliseconds since 1970).

        Raises:
            CommandError: a topic does not exist.
        """
        known = reach(self._consumer, self._trouble).topics
        missing = [topic for topic in topics if topic not in known]
        if missing:
            raise CommandError(f"no topic {missing[0]} on {self._servers}: `sdxl-worker topics create` creates it")
        places = [(topic, number) for topic in topics for number in sorted(known[topic].partitions)]
        bounds = {place: self._bounds(*place) for place in places}
        firsts = self._at(places, since_ms)
        ends = self._at(places, until_ms)
        found = []
        for place in places:
            low, high = bounds[place]
            first = low if since_ms is None else firsts[place]
            end = high if until_ms is None else ends[place]
            # A time after the last record has no offset.
            first, end = (high if first < 0 else first), (high if end < 0 else min(end, high))
            found.append(Range(*place, low, max(first, low), end))
        return found

    def read(self, wanted: Sequence[Range]) -> Iterator[Message]:
        """The records of the ranges, in order within each; records of aborted transactions are left out.

        Raises:
            CommandError: nothing arrived for a long time.
            KafkaException: reading cannot continue.
        """
        left = {(one.topic, one.partition): one for one in wanted if one.first < one.end}
        self._consumer.assign([TopicPartition(*place, one.first) for place, one in left.items()])
        heard = time.monotonic()
        try:
            while left:
                batch = self._consumer.consume(BATCH, _POLL_S)
                for message in batch:
                    place = (str(message.topic()), message.partition() or 0)
                    error = message.error()
                    if error is not None:
                        if error.code() == KafkaError._PARTITION_EOF:
                            left.pop(place, None)
                        elif not error.retriable() and error.code() not in _PASSING:
                            raise KafkaException(error)
                        continue
                    one = left.get(place)
                    offset = message.offset() or 0
                    if one is not None and offset < one.end:
                        yield message
                    if offset + 1 >= (one.end if one is not None else 0):
                        left.pop(place, None)
                if batch:
                    heard = time.monotonic()
                elif time.monotonic() - heard > SILENCE_S:
                    raise CommandError(f"Kafka sent nothing for {SILENCE_S:g} s")
        finally:
            self._consumer.unassign()

    def _bounds(self, topic: str, partition: int) -> tuple[int, int]:
        place = TopicPartition(topic, partition)
        found = in_time(lambda slice_s: self._consumer.get_watermark_offsets(place, timeout=slice_s))
        if found is None:
            raise CommandError(f"Kafka does not tell where {topic}/{partition} begins and ends")
        return found

    def _at(self, places: Sequence[tuple[str, int]], moment_ms: int | None) -> dict[tuple[str, int], int]:
        """The first offsets at or after a time; negative where there is none."""
        return {} if moment_ms is None else offsets_at(self._consumer, places, moment_ms)
