"""Poll the group's committed offsets, and check that none of them goes back, but where a log has lost its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.chaos.lost_end import end_by
from worker.client.reach import KNOWS_LEADERS

SAMPLE_EVERY_S = 0.5
_TIMEOUT_S = 10.0

Place = tuple[str, int]


class Marks:
    """The highest offset of each place, and where one went back.

    Args:
        excused: places that may go back once, and how far; the caller adds them, and they are taken out here.
    """

    def __init__(self, excused: dict[Place, int]) -> None:
        self._excused = excused
        self.highest: dict[Place, int] = {}
        self.regressed: list[str] = []

    def note(self, place: Place, offset: int) -> None:
        before = self.highest.get(place, 0)
        if self._excused.get(place, before) <= offset < before:
            del self._excused[place]
            before = offset
        if offset < before:
            self.regressed.append(f"{place[0]}/{place[1]} from {before} to {offset} at {time.time():.3f}")
        self.highest[place] = max(before, offset)


class OffsetWatch:
    """Samples on a thread of its own.

    A consumer that never joins the group asks for them: librdkafka 2.16's admin client, asked the same, ends the
    process by an assertion (`eonce->refcnt > 0`) when the group's coordinator dies in the middle.
    """

    def __init__(
        self,
        servers: str,
        group: str,
        topics: tuple[str, ...],
        partitions: int,
        excused: dict[Place, int],
        are_stale: Callable[[], bool],
    ) -> None:
        """`excused`: see `Marks`. `are_stale`: whether answers are of no worth now; the next ones have to be right."""
        self._are_stale = are_stale
        self._marks = Marks(excused)
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": group,
                "enable.auto.commit": False,
                # Else it would wait for open transactions, and see less.
                "isolation.level": "read_uncommitted",
                "log_level": 0,
                **KNOWS_LEADERS,
            }
        )
        self._places = [TopicPartition(topic, partition) for topic in topics for partition in range(partitions)]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="offsets", daemon=True)
        self.samples = 0

    @property
    def regressed(self) -> list[str]:
        """Where an offset went back."""
        return self._marks.regressed

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> dict[str, int]:
        """Sample a last time; returns the records without a committed end, by partition.

        The request topics hold no transaction markers, so the end of a partition is the end of its records.
        """
        self._stopping.set()
        self._thread.join(2 * _TIMEOUT_S)
        self._sample()
        behind = self.behind()
        self._consumer.close()
        return behind

    def behind(self) -> dict[str, int]:
        """The records above the committed offsets as they were sampled last, by partition."""
        behind = {}
        for place in self._places:
            lag = end_by(self._consumer, place) - self._marks.highest.get((place.topic, place.partition), 0)
            if lag:
                behind[f"{place.topic}/{place.partition}"] = lag
        return behind

    def stop(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(SAMPLE_EVERY_S):
            try:
                self._sample()
            except KafkaException:
                continue  # the group's coordinator is on its way to another broker

    def _sample(self) -> None:
        answers = self._consumer.committed(self._places, timeout=_TIMEOUT_S)
        if self._are_stale():
            return
        self.samples += 1
        for answer in answers:
            if answer.error is None:
                self._marks.note((answer.topic, answer.partition), max(0, answer.offset))
