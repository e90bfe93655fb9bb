"""Where to go on in a partition whose next offset the broker does not have. Pure.

librdkafka would go to the beginning by itself and repeat a week's requests, or to the end and skip some
(`auto.offset.reset`). So it is told to report, and what has happened is found out here: the topic was created again,
retention took records that nobody had read, or the log has lost its end in an unclean leader election.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from worker.intake.log_bounds import Bounds

# librdkafka compares leader epochs, and tells only in words from where on the log is another one.
_TRUNCATION = re.compile(r"broker end offset is (-?\d+)")


class Cause(Enum):
    """Why an offset is not there."""

    RECREATED = "recreated"
    RETENTION = "retention"
    LOST_END = "lost_end"
    # The offset is there after all: an answer of a broker that was not up to date.
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Lost:
    """What a consumer reports.

    Args:
        offset: the next offset to read.
        leader_epoch: the highest of what was read before; None where it is not known.
        diverges_at: the end of that epoch in the log as it is now; None where librdkafka does not say, negative where
            the log knows no such epoch.
    """

    offset: int
    leader_epoch: int | None = None
    diverges_at: int | None = None

    @property
    def knows_epoch(self) -> bool:
        """Whether the log does, as far as it was asked."""
        return self.diverges_at is None or self.diverges_at >= 0


@dataclass(frozen=True, slots=True)
class GoOn:
    """Where to read on, and why."""

    offset: int
    cause: Cause


def divergence(text: str) -> int | None:
    """The offset from which on the log is another one, from librdkafka's error; None where it names none."""
    found = _TRUNCATION.search(text)
    return int(found[1]) if found else None


def go_on(lost: Lost, bounds: Bounds, *, same_topic: bool | None) -> GoOn:
    """Where to go on.

    Args:
        same_topic: whether the topic still has the id that it had; None where that is not known.
    """
    is_above = lost.offset > bounds.end
    # Epochs count where the id has stayed, too: it may have been learnt after the topic was created again.
    if same_topic is False or _is_another_topic(lost, bounds, is_above=is_above):
        return GoOn(bounds.first, Cause.RECREATED)
    if lost.offset < bounds.first:
        return GoOn(bounds.first, Cause.RETENTION)
    if lost.diverges_at is not None and 0 <= lost.diverges_at < lost.offset:
        # Not the end: what was written since the loss has not been read.
        return GoOn(max(bounds.first, lost.diverges_at), Cause.LOST_END)
    if is_above or lost.diverges_at is not None:
        return GoOn(min(lost.offset, bounds.end), Cause.LOST_END)
    return GoOn(lost.offset, Cause.NOTHING)


def _is_another_topic(lost: Lost, bounds: Bounds, *, is_above: bool) -> bool:
    """Whether leader epochs say so: they only ever grow, and a log that loses its end has a new leader."""
    is_shorter = is_above or lost.diverges_at is not None
    if not is_shorter or lost.leader_epoch is None or bounds.end_epoch is None:
        return False
    return bounds.end_epoch <= lost.leader_epoch
