"""Follows where the assigned partitions end, and finds out where to go on when a next offset is not there any more.

What is asked of the brokers is answered later (`log_bounds`), and then comes back from `look` as an event.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from worker.intake.ledger import TopicPartition as Key
from worker.intake.log_bounds import Answers, LogBounds
from worker.intake.resets import Cause, GoOn, Lost, go_on

# How often the topics' ids are compared: a topic that was created again and has as many records as the old one gives
# no error anywhere.
COMPARE_IDS_S = 30.0
LEARN_ID_AFTER_S = 2.0
# So often the end of a partition is asked for again, a second apart, before its offset is taken without an epoch.
VAIN_ANSWERS_MAX = 5


@dataclass(frozen=True, slots=True)
class Reached:
    """The partition was read to this offset, past what is no record; `leader_epoch` is that of its end."""

    key: Key
    offset: int
    leader_epoch: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """The next offset was not there, or is another topic's, and this is where to go on."""

    key: Key
    lost: Lost
    go_on: GoOn
    topic_id: str | None


@dataclass(frozen=True, slots=True)
class Learnt:
    """The id of the topic is known; nothing was committed with it yet."""

    key: Key
    topic_id: str


Event = Reached | Found | Learnt


class EndWatch:
    """The poll thread's."""

    def __init__(self, bounds: LogBounds) -> None:
        self._bounds = bounds
        # The ids of the topics that the offsets are of, None where it is not known; and of topics that are gone.
        self._topic_ids: dict[Key, str | None] = {}
        self._old_ids: set[str] = set()
        self._compare_at = self._learn_at = math.inf
        self._ends: dict[Key, int] = {}
        self._vain_answers: Counter[Key] = Counter()
        self._lost: dict[Key, Lost] = {}
        # Partitions of topics that have another id now, and that id.
        self._recreated: dict[Key, str] = {}
        self._paused_ends: dict[Key, int] = {}
        # Of these two, the partitions that are asked about at the moment: the answer may be older than what is known.
        self._asked_before: set[Key] = set()

    def recreated(self, committed: Mapping[Key, str | None]) -> dict[Key, str]:
        """The partitions among these that are of another topic than was committed, with its id. Waits, within bounds.

        A rebalance waits for committed offsets anyhow, and nothing may be read before it is known what they mean.
        """
        known = {key: topic_id for key, topic_id in committed.items() if topic_id is not None}
        now = self._bounds.ids_now({topic for topic, _ in known}) if known else {}
        return {key: now[key[0]] for key, topic_id in known.items() if now.get(key[0], topic_id) != topic_id}

    def on_assigned(self, committed: Mapping[Key, str | None], now: float) -> None:
        """Partitions have come, with the topic ids that were committed with their offsets."""
        self._topic_ids |= committed
        # Not at once: a broker that lags behind would name the id of a topic that was deleted.
        if None in committed.values():
            self._learn_at = now + LEARN_ID_AFTER_S
        self._compare_at = min(self._compare_at, now if any(committed.values()) else self._learn_at)

    def on_gone(self, keys: Iterable[Key]) -> None:
        """Partitions have gone, and what was asked for them is of no use."""
        for key in keys:
            known: dict[Key, Any]
            for known in (
                *(self._topic_ids, self._ends, self._vain_answers),
                *(self._lost, self._recreated, self._paused_ends),
            ):
                known.pop(key, None)
            self._asked_before.discard(key)

    def on_end(self, key: Key, offset: int) -> None:
        """A consumer has read to the end of a partition, beyond its last record."""
        self._ends[key] = offset

    def on_lost(self, key: Key, lost: Lost) -> None:
        """A consumer's next offset is not there; it stands still until it is moved."""
        self._lost[key] = lost
        self._ask_anew(key)
        # An end that was reached may be among what is lost; it is told again where it is not.
        self._ends.pop(key, None)
        self._vain_answers.pop(key, None)

    def _ask_anew(self, key: Key) -> None:
        if self._bounds.is_asked(key):
            self._asked_before.add(key)

    def end(self, key: Key) -> int | None:
        """The end of a paused partition, of which fetches tell nothing; None where it is not known."""
        return self._paused_ends.get(key)

    def look(self, paused: Collection[Key], now: float) -> list[Event]:
        """What has been found out; asks for what is still to be known."""
        answers = self._bounds.poll(now)
        self._paused_ends = {key: end for key, end in self._paused_ends.items() if key in paused}
        self._paused_ends |= {key: bounds.end for key, bounds in answers.bounds.items() if key in paused}
        events: list[Event] = [*self._reached(answers), *self._found(answers), *self._compare_ids(answers, now)]
        self._bounds.want([*self._ends, *self._lost, *self._recreated, *paused])
        self._bounds.want_ids(topic for topic, _ in self._lost)
        return events

    def _reached(self, answers: Answers) -> list[Reached]:
        events = []
        for key in [key for key in self._ends if key in answers.bounds or key in answers.failed]:
            offset, bounds = self._ends[key], answers.bounds.get(key)
            epoch = None
            if bounds is not None and bounds.end >= offset:
                # An epoch that begins above this offset would do as well: its end lies above, too.
                epoch = bounds.end_epoch
            elif self._vain_answers[key] < VAIN_ANSWERS_MAX:
                # A leader that moves, or an end that has just been lost: without its epoch, an offset would be trusted.
                self._vain_answers[key] += 1
                continue
            del self._ends[key], self._vain_answers[key]
            events.append(Reached(key, offset, epoch))
        return events

    def _forget_id(self, key: Key, topic_id: str | None) -> None:
        """The partition's old topic is gone; `topic_id` is that of the new one."""
        old = self._topic_ids.get(key)
        if old is not None and old != topic_id:
            self._old_ids.add(old)
        self._topic_ids[key] = topic_id

    def _found(self, answers: Answers) -> list[Found]:
        events = []
        too_old = self._asked_before & (answers.bounds.keys() | answers.failed)
        self._asked_before -= too_old
        for key in [key for key in self._recreated if key in answers.bounds and key not in too_old]:
            new_id = self._recreated.pop(key)
            self._forget_id(key, new_id)
            beginning = GoOn(answers.bounds[key].first, Cause.RECREATED)
            events.append(Found(key, self._lost.pop(key, Lost(0)), beginning, new_id))
        for key in [key for key in self._lost if key in answers.bounds and key not in too_old]:
            lost, topic_id = self._lost.pop(key), answers.topic_ids.get(key[0])
            known = self._topic_ids.get(key)
            same = None if known is None or topic_id is None else topic_id == known
            found = go_on(lost, answers.bounds[key], same_topic=same)
            if found.cause is Cause.RECREATED:
                self._forget_id(key, topic_id)
            events.append(Found(key, lost, found, topic_id))
        return events

    def _compare_ids(self, answers: Answers, now: float) -> list[Learnt]:
        learnt = []
        for key, known in list(self._topic_ids.items()):
            topic_id = answers.topic_ids.get(key[0])
            if topic_id is None or topic_id in self._old_ids:
                continue
            if known is None and now >= self._learn_at:
                self._topic_ids[key] = topic_id
                learnt.append(Learnt(key, topic_id))
            elif known is not None and known != topic_id:
                if key not in self._recreated:
                    self._ask_anew(key)
                self._recreated[key] = topic_id
        if now >= self._compare_at and self._topic_ids:
            is_learning = None in self._topic_ids.values()
            self._compare_at = max(now, self._learn_at) if is_learning else now + COMPARE_IDS_S
            self._bounds.want_ids(topic for topic, _ in self._topic_ids)
        return learnt
