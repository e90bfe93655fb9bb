"""One flush: what is to become durable together, and how it is taken apart when the brokers refuse a record. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from worker.delivery.blocked import Cause
from worker.job import Job, Origin
from worker.outcome import Message, Notice, Outcome

Key = tuple[str, int]


@dataclass(slots=True)
class Batch:
    """Kept until it is durable.

    Args:
        starts: jobs whose start is recorded with it, and the numbers of their attempts.
        touched: partitions to commit even if nothing of theirs has ended.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    starts: list[tuple[Job, int]] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    touched: set[Key] = field(default_factory=set)

    @property
    def is_one_outcome(self) -> bool:
        """Whether nothing can be taken out of it."""
        return len(self.outcomes) == 1 and not self.starts and not self.notices


@dataclass(frozen=True, slots=True)
class Part:
    """A message of a batch, and what it belongs to."""

    message: Message
    owner: Outcome | Notice

    @property
    def is_result(self) -> bool:
        """Whether it is the result of its outcome, which cannot be left out."""
        return isinstance(self.owner, Outcome) and self.message is self.owner.messages[0]


def parts_of(outcomes: Iterable[Outcome], notices: Iterable[Notice]) -> list[Part]:
    """Every message to send, notices first."""
    parts = [Part(notice.message, notice) for notice in notices]
    return parts + [Part(message, outcome) for outcome in outcomes for message in outcome.messages]


def split(batch: Batch, parts: list[Part], causes: Mapping[int, Cause]) -> list[Batch]:
    """The batches to send in place of one that was refused.

    Refused notices are gone, since what they say is said again by the outcome. A refused outcome is sent alone, for
    brokers refuse whole batches for the size of the sum. Where no record is named, the batch is halved.

    Args:
        parts: what was sent.
        causes: why records were refused, by their index in `parts`.
    """
    guilty = [parts[index].owner for index in causes]
    notices = [notice for notice in batch.notices if not any(notice is owner for owner in guilty)]
    if len(notices) < len(batch.notices):
        return [replace(batch, notices=notices)]
    if not guilty:
        return _halves(batch)
    alone = [outcome for outcome in batch.outcomes if any(outcome is owner for owner in guilty)]
    others = [outcome for outcome in batch.outcomes if not any(outcome is owner for owner in guilty)]
    rest = replace(batch, outcomes=others)
    return [*([rest] if _holds_something(rest) else []), *(Batch([outcome]) for outcome in alone)]


def without_extras(outcome: Outcome, parts: list[Part], causes: Mapping[int, Cause]) -> Outcome | None:
    """A lone refused outcome made smaller: without the status that was refused, or as its smallest form.

    Where no record is named, the status goes first. None where nothing is left to take away.
    """
    refused = [parts[index].message for index in causes] if causes else list(outcome.messages[1:])
    result, *extras = outcome.messages
    kept = [extra for extra in extras if not any(extra is message for message in refused)]
    if len(kept) < len(extras):
        return replace(outcome, messages=(result, *kept))
    if outcome.smallest and (not causes or any(cause.size for cause in causes.values())):
        return replace(outcome, messages=outcome.smallest, smallest=())
    return None


def _halves(batch: Batch) -> list[Batch]:
    """Notices and starts go first, without outcomes; outcomes in two halves."""
    if batch.notices:
        return [replace(batch, notices=[])]
    if batch.starts or not batch.outcomes:
        first = Batch(starts=batch.starts, touched=batch.touched)
        return [first, Batch(batch.outcomes)] if batch.outcomes else [first]
    middle = len(batch.outcomes) // 2
    return [Batch(batch.outcomes[:middle], touched=batch.touched), Batch(batch.outcomes[middle:])]


def _holds_something(batch: Batch) -> bool:
    return bool(batch.outcomes or batch.starts or batch.notices or batch.touched)


def place(origin: Origin) -> Key:
    """The partition that a record came from."""
    return origin.topic, origin.partition
