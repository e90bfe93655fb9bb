"""Outcomes that cannot be written now, for a reason of their own or of their topic: kept and tried again one by one.

They hold back the commit of their own partitions only. A topic that refuses everything (it is missing, or we may not
write to it) is probed with one outcome at a time. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.outcome import Outcome

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a record was refused.

    Args:
        text: one line, without anything of the record's own.
        of_topic: every record of this topic would be refused.
        size: a smaller record might be taken.
    """

    text: str
    of_topic: bool = False
    size: bool = False


@dataclass(slots=True)
class _Entry:
    outcome: Outcome
    topic: str
    cause: Cause
    due: float
    pause_s: float = FIRST_PAUSE_S


@dataclass(slots=True)
class BlockedOutcomes:
    """Belongs to the publisher's thread; times are monotonic seconds."""

    _entries: list[_Entry] = field(default_factory=list)
    _probed: _Entry | None = None
    # Topics that refuse every record, until when, and why.
    _refusing: dict[str, tuple[float, Cause]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, outcome: Outcome, topic: str, cause: Cause, now: float) -> None:
        """Keep an outcome whose record for `topic` was refused, alone in its flush."""
        entry = self._probed
        if entry is None or entry.outcome.origin != outcome.origin:
            entry = _Entry(outcome, topic, cause, due=0.0)
            self._entries.append(entry)
        else:
            entry.pause_s = min(LONGEST_PAUSE_S, 2 * entry.pause_s)
        entry.outcome, entry.topic, entry.cause, entry.due = outcome, topic, cause, now + entry.pause_s
        self._probed = None
        if cause.of_topic:
            self.refuse(topic, cause, now + entry.pause_s)

    def refuse(self, topic: str, cause: Cause, until: float) -> None:
        """Nothing is to be sent to the topic before `until`."""
        self._refusing[topic] = (until, cause)

    def refuses(self, topic: str, now: float) -> Cause | None:
        """Why nothing should be sent to the topic now; None when it may be tried."""
        until, cause = self._refusing.get(topic, (now, None))
        return cause if now < until else None

    def is_refusing(self, now: float) -> bool:
        """Whether a topic takes no record now."""
        return any(now < until for until, _ in self._refusing.values())

    def due(self) -> float | None:
        """When the next outcome is to be tried again; None when there is none."""
        return min((self._due(entry) for entry in self._entries), default=None)

    def take(self, now: float) -> Outcome | None:
        """The outcome to try again now, alone; `add`, `remove` or `postpone` says what became of it."""
        ready = [entry for entry in self._entries if self._due(entry) <= now]
        if not ready:
            return None
        self._probed = min(ready, key=lambda entry: entry.due)
        return self._probed.outcome

    def remove(self, outcome: Outcome, now: float) -> None:
        """It is durable, or not ours any more; the others of its topic are due at once."""
        entry = next((e for e in self._entries if e.outcome.origin == outcome.origin), None)
        self._probed = None
        if entry is None:
            return
        self._entries.remove(entry)
        self._refusing.pop(entry.topic, None)
        for other in self._entries:
            if other.topic == entry.topic:
                other.due = min(other.due, now)

    def sentence(self) -> str | None:
        """What to tell an operator; None when nothing is blocked."""
        if not self._entries:
            return None
        entry = self._entries[0]
        origin = entry.outcome.origin
        return (
            f"{len(self._entries)} outcomes cannot be written; first {origin.topic}/{origin.partition}@{origin.offset} "
            f"to {entry.topic}: {entry.cause.text}"
        )

    def _due(self, entry: _Entry) -> float:
        return max(entry.due, self._refusing.get(entry.topic, (0.0, None))[0])
