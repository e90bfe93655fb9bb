"""Follows where the assigned partitions end, and finds out where to go on when a next offset is not there any more.

What is asked of the brokers is answered later (`log_bounds`), and then comes back from `look` as an event.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from worker.intake.ledger import TopicPartition as Key
from worker.intake.log_bounds import Answers, LogBounds
from worker.intake.resets import Cause, GoOn, Lost, go_on

# How often the topics' ids are compared: a topic that was created again and has as many records as the old one gives
# no error anywhere.
COMPARE_IDS_S = 30.0
LEARN_ID_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Reached:
    """The partition was read to this offset, past what is no record; `leader_epoch` is that of its end."""

    key: Key
    offset: int
    leader_epoch: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """The next offset was not there, and this is where to go on."""

    key: Key
    lost: Lost
    go_on: GoOn


class EndWatch:
    """The poll thread's."""

    def __init__(self, bounds: LogBounds) -> None:
        self._bounds = bounds
        self._owned: set[Key] = set()
        # As they were when partitions were assigned, and those of topics that are known to be gone.
        self._topic_ids: dict[Key, str] = {}
        self._old_ids: set[str] = set()
        self._compare_at = math.inf
        self._ends: dict[Key, int] = {}
        self._lost: dict[Key, Lost] = {}
        self._paused_ends: dict[Key, int] = {}

    def on_assigned(self, keys: Iterable[Key], now: float) -> None:
        """Partitions have come; the ids of their topics are learnt soon."""
        self._owned.update(keys)
        # Not at once: a broker that lags behind would name the id of a topic that was deleted.
        self._compare_at = min(self._compare_at, now + LEARN_ID_AFTER_S)

    def on_gone(self, keys: Iterable[Key]) -> None:
        """Partitions have gone, and what was asked for them is of no use."""
        for key in keys:
            self._owned.discard(key)
            for known in (self._topic_ids, self._ends, self._lost, self._paused_ends):
                known.pop(key, None)  # type: ignore[attr-defined]

    def on_end(self, key: Key, offset: int) -> None:
        """A consumer has read to the end of a partition, beyond its last record."""
        self._ends[key] = offset

    def on_lost(self, key: Key, lost: Lost) -> None:
        """A consumer's next offset is not there; it stands still until it is moved."""
        self._lost[key] = lost

    def end(self, key: Key) -> int | None:
        """The end of a paused partition, of which fetches tell nothing; None where it is not known."""
        return self._paused_ends.get(key)

    def look(self, paused: Collection[Key], now: float) -> list[Reached | Found]:
        """What has been found out; asks for what is still to be known."""
        answers = self._bounds.poll(now)
        self._paused_ends = {key: end for key, end in self._paused_ends.items() if key in paused}
        self._paused_ends |= {key: bounds.end for key, bounds in answers.bounds.items() if key in paused}
        events = [*self._reached(answers), *self._found(answers)]
        self._compare_ids(answers, now)
        self._bounds.want([*self._ends, *self._lost, *paused])
        self._bounds.want_ids(topic for topic, _ in self._lost)
        return events

    def _reached(self, answers: Answers) -> list[Reached]:
        events = []
        for key in [key for key in self._ends if key in answers.bounds or key in answers.failed]:
            offset, bounds = self._ends.pop(key), answers.bounds.get(key)
            # An epoch that begins above this offset would do as well: its end lies above, too.
            epoch = bounds.end_epoch if bounds is not None and bounds.end >= offset else None
            events.append(Reached(key, offset, epoch))
        return events

    def _found(self, answers: Answers) -> list[Found]:
        events = []
        for key in [key for key in self._lost if key in answers.bounds]:
            lost, topic_id = self._lost.pop(key), answers.topic_ids.get(key[0])
            known = self._topic_ids.get(key)
            same = None if known is None or topic_id is None else topic_id == known
            found = go_on(lost, answers.bounds[key], same_topic=same)
            if found.cause is Cause.RECREATED and topic_id is not None:
                self._learn(key, topic_id)
            events.append(Found(key, lost, found))
        return events

    def _compare_ids(self, answers: Answers, now: float) -> None:
        for key in self._owned:
            topic_id = answers.topic_ids.get(key[0])
            if topic_id is None or topic_id in self._old_ids:
                continue
            if self._topic_ids.setdefault(key, topic_id) != topic_id and key not in self._lost:
                self._lost[key] = Lost(0)
        if now >= self._compare_at and self._owned:
            self._compare_at = now + COMPARE_IDS_S
            self._bounds.want_ids(topic for topic, _ in self._owned)

    def _learn(self, key: Key, topic_id: str) -> None:
        old = self._topic_ids.get(key)
        if old is not None and old != topic_id:
            self._old_ids.add(old)
        self._topic_ids[key] = topic_id
