"""Read topics for the command line, without joining a consumer group."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from worker.client.connection import Connection, Record
from worker.client.errors import CommandError
from worker.client.offsets import REQUEST_TIMEOUT_S, committed_offsets, offsets_at
from worker.client.reach import KNOWS_LEADERS, reach
from worker.events.record_headers import read_headers

FETCH_WAIT_MS = 50  # librdkafka's embedded broker makes every fetch wait this long
# How often one that follows its topics looks for partitions that were added.
LIST_AGAIN_S = 10.0
_LIST_TIMEOUT_S = 1.0


class Reader:
    """A consumer of whole topics that is assigned directly and never commits.

    Records of aborted transactions are not returned, because librdkafka's default is read_committed.

    Args:
        follows: partitions that are added to the topics later are read too, from their beginning.
    """

    def __init__(self, connection: Connection, topics: Sequence[str], *, follows: bool = False) -> None:
        own = {"fetch.wait.max.ms": FETCH_WAIT_MS}
        fixed = {
            "group.id": "sdxl-worker-cli",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            # Applies to an offset that does not exist any more, or not yet.
            "auto.offset.reset": "earliest",
            "allow.auto.create.topics": False,
        }
        self._trouble = connection.trouble()
        self._config = own | KNOWS_LEADERS | connection.config() | fixed
        self._consumer = Consumer(self._config | {"error_cb": self._trouble})
        self._ended: set[tuple[str, int]] = set()
        self._topics = tuple(topics)
        self._list_at = time.monotonic() + LIST_AGAIN_S if follows else math.inf
        # Of one that follows: why Kafka gave no answer when it was asked last.
        self.unanswered: str | None = None
        try:
            self._places = self._partitions(topics, connection.settings.kafka_bootstrap_servers)
        except BaseException:
            self._consumer.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def from_beginning(self) -> None:
        """Set the position to the beginning of every partition."""
        self._assign(dict.fromkeys(self._places, OFFSET_BEGINNING))

    def from_end(self) -> None:
        """Set the position to the current end of every partition; it is fixed when this returns."""
        self._assign(self._offsets(OFFSET_END))

    def recent(self, counts: Mapping[str, int], groups: Sequence[str] = ()) -> None:
        """Set the position to the beginning; of these topics, at most so many offsets before each partition's end.

        Args:
            groups: nor before what one of these has committed.
        """
        ends = self._offsets(OFFSET_END)
        starts = dict.fromkeys(self._places, OFFSET_BEGINNING)
        near = {place: max(0, ends[place] - counts[place[0]]) for place in self._places if place[0] in counts}
        for group in groups:
            for place, offset in self._committed(group, list(near)).items():
                near[place] = max(near[place], offset)
        self._assign(starts | near)

    def since(self, timestamp_ms: int, *, else_beginning: bool = False) -> None:
        """Set the position to the first records at or after a time (milliseconds since the epoch).

        Args:
            else_beginning: where a partition has no such record, read all of it in place of nothing.
        """
        ends = dict.fromkeys(self._places, OFFSET_BEGINNING) if else_beginning else self._offsets(OFFSET_END)
        found = self._offsets(timestamp_ms)
        self._assign({p: offset if offset >= 0 else ends[p] for p, offset in found.items()})

    def only(self, partition: int, first: int | None = None) -> None:
        """Read only one partition of each topic, from offset `first` or from its beginning.

        Raises:
            CommandError: a topic does not have that partition.
        """
        topics = {topic for topic, _ in self._places}
        places = [place for place in self._places if place[1] == partition]
        if len(places) < len(topics):
            raise CommandError(f"no partition {partition} in {', '.join(sorted(topics))}")
        self._places = places
        self._assign(dict.fromkeys(places, OFFSET_BEGINNING if first is None else first))

    def poll(self, timeout_s: float) -> Record | None:
        """Return the next record, or None if none arrived within the timeout.

        Raises:
            KafkaException: reading cannot continue.
        """
        if time.monotonic() >= self._list_at:
            self._add_partitions()
        message = self._consumer.poll(timeout_s)
        if message is None:
            return None
        error = message.error()
        if error is None:
            return _record(message)
        if error.code() == KafkaError._PARTITION_EOF:
            self._ended.add((str(message.topic()), message.partition() or 0))
        elif not error.retriable() and error.code() not in _PASSING:
            raise KafkaException(error)
        return None

    def read_all(self, patience_s: float = REQUEST_TIMEOUT_S) -> Iterator[Record]:
        """Yield every record from the beginning to the end of the topics; raises the same errors as `to_end`."""
        self.from_beginning()
        yield from self.to_end(patience_s)

    def to_end(self, patience_s: float = REQUEST_TIMEOUT_S) -> Iterator[Record]:
        """Yield every record from the current position to the end of the topics.

        Raises:
            CommandError: nothing arrived for `patience_s` seconds.
        """
        deadline = time.monotonic() + patience_s
        while len(self._ended) < len(self._places):
            ended = len(self._ended)
            record = self.poll(0.1)
            if record is not None:
                yield record
            if record is not None or len(self._ended) > ended:
                deadline = time.monotonic() + patience_s
            elif time.monotonic() > deadline:
                raise CommandError(f"Kafka sent nothing for {patience_s:g} s")

    @property
    def partition_count(self) -> int:
        """The number of partitions of all the topics."""
        return len(self._places)

    @property
    def ended_count(self) -> int:
        """The number of partitions that were read to their end."""
        return len(self._ended)

    def _partitions(self, topics: Sequence[str], servers: str) -> list[tuple[str, int]]:
        known = reach(self._consumer, self._trouble).topics
        missing = [topic for topic in topics if topic not in known]
        if missing:
            raise CommandError(f"no topic {missing[0]} on {servers}: `sdxl-worker topics create` creates it")
        return [(topic, partition) for topic in topics for partition in sorted(known[topic].partitions)]

    def _add_partitions(self) -> None:
        """Read partitions that are new; a broker that does not answer now is asked again later."""
        self._list_at = time.monotonic() + LIST_AGAIN_S
        try:
            known = self._consumer.list_topics(timeout=_LIST_TIMEOUT_S).topics
        except KafkaException as error:
            self.unanswered = f"Kafka does not answer: {self._trouble.reason or error.args[0].str()}"
            return
        self.unanswered = None
        found = [(topic, n) for topic in self._topics if topic in known for n in sorted(known[topic].partitions)]
        added = [place for place in found if place not in self._places]
        if added:
            self._places += added
            self._consumer.incremental_assign([TopicPartition(*place, OFFSET_BEGINNING) for place in added])

    def _offsets(self, timestamp_ms: int) -> dict[tuple[str, int], int]:
        return offsets_at(self._consumer, self._places, timestamp_ms)

    def _committed(self, group: str, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """What a group, which is never joined, has committed; negative for a partition without a commit."""
        client = Consumer(self._config | {"group.id": group, "error_cb": self._trouble})
        try:
            return committed_offsets(client, places)
        finally:
            client.close()

    def _assign(self, offsets: dict[tuple[str, int], int]) -> None:
        self._ended.clear()
        self._consumer.assign([TopicPartition(*place, offset) for place, offset in offsets.items()])


# Errors that librdkafka reports while it reconnects; reading continues by itself.
_PASSING = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE})


def _record(message: Message) -> Record:
    kind, timestamp = message.timestamp()
    return Record(
        topic=str(message.topic()),
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=message.key(),
        value=message.value(),
        headers=read_headers(message),
        timestamp_ms=timestamp if kind else None,
    )
