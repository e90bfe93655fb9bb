"""Lag per partition, in records and in seconds, from the ledger and the watermarks.

librdkafka's own `consumer_lag` counts from offsets that the consumer committed or fetched itself, so it freezes under
transactional commits. Here lag is what lies between a partition's lowest unfinished record and its
end, and its age is that record's. Intake moves the offset past transaction markers and expired records at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from worker.intake.lane_members import LaneMembers
from worker.intake.ledger import TopicPartition as Key
from worker.telemetry import metrics

INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a partition is behind: records, and the age in seconds of the oldest unfinished one."""

    records: int
    seconds: float


@dataclass(slots=True)
class LagMeter:
    """One partition's memory of when its records were written. Pure."""

    _written: dict[int, float] = field(default_factory=dict)
    _stalled: tuple[int, float] | None = None

    def note(self, offset: int, written_at: float) -> None:
        """A record was delivered."""
        self._written[offset] = written_at

    def measure(self, position: int | None, end: int, now: float) -> Lag:
        """The lag at `position`, the lowest unfinished or next offset; `end` is that of the next record written.

        A record that is not delivered yet has an unknown age: it counts from when it was first seen to wait.
        """
        if position is None or end <= position:
            self._stalled = None
            self._written.clear()
            return Lag(0, 0.0)
        for offset in [offset for offset in self._written if offset < position]:
            del self._written[offset]
        if self._stalled is None or self._stalled[0] != position:
            self._stalled = (position, now)
        since = self._written.get(position, self._stalled[1])
        return Lag(end - position, max(0.0, now - since))


class Ends(Protocol):
    """Where partitions end of which fetches tell nothing (`intake.end_watch.EndWatch`)."""

    def end(self, key: Key) -> int | None: ...


class Books(Protocol):
    """What the gauge needs of the ledger."""

    def partitions(self) -> list[Key]: ...
    def position(self, key: Key) -> int | None: ...


class LagGauge:
    """Sets the lag metrics; the poll thread's, as every call to the members is (`consumer_proxy`)."""

    def __init__(self, members: LaneMembers, books: Books, ends: Ends, group: str, topics: Iterable[str]) -> None:
        self._members = members
        self._books = books
        self._ends = ends
        self._group = group
        self._meters: dict[Key, LagMeter] = {}
        self._due = 0.0
        self._topics = tuple(topics)

    def note(self, topic: str, partition: int, offset: int, written_at: float) -> None:
        """A record was delivered that was written at `written_at`, in epoch seconds."""
        self._meters.setdefault((topic, partition), LagMeter()).note(offset, written_at)

    def sample(self, now: float) -> None:
        """Measure every owned partition, at most once in `INTERVAL_S`."""
        if now < self._due:
            return
        self._due = now + INTERVAL_S
        owned = set(self._books.partitions())
        for key in self._meters.keys() - owned:
            del self._meters[key]
            _remove_gauges((self._group, key[0], str(key[1])))
        for key in owned:
            end = self._end(key)
            if end is not None:
                lag = self._meters.setdefault(key, LagMeter()).measure(self._books.position(key), end, now)
                metrics.LAG.labels(self._group, key[0], key[1]).set(lag.records)
                metrics.LAG_SECONDS.labels(self._group, key[0], key[1]).set(lag.seconds)
        for topic in self._topics:
            metrics.ASSIGNED.labels(topic).set(sum(key[0] == topic for key in owned))

    def _end(self, key: Key) -> int | None:
        """From the watermarks that come with fetches; a paused partition's was asked for."""
        asked = self._ends.end(key)
        if asked is not None:
            return asked
        answer = self._members.watermarks(*key)
        return None if answer is None or answer[1] < 0 else answer[1]


def _remove_gauges(labels: tuple[str, str, str]) -> None:
    metrics.LAG.remove(*labels)
    metrics.LAG_SECONDS.remove(*labels)
