"""Derive the verdict of a run from the observations. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.chaos.tally import Tally

SHOWN = 20


@dataclass(slots=True, kw_only=True)
class Evidence:
    """What a run leaves to be judged.

    Args:
        sent: the request records that were acknowledged.
        requests: those that are in the topics at the end.
        work: the records for the workers that dispatchers have written; None without dispatchers.
        shortened: places whose log has lost its end. What it lost may have ended once, or not at all.
        live: outcomes, counted during the run; `fresh`: from the start, at its end.
    """

    jobs: int
    sent: Tally
    requests: Tally
    work: Tally | None = None
    shortened: set[tuple[str, int]] = field(default_factory=set)
    live: Tally
    fresh: Tally
    regressed: list[str]
    behind: dict[str, int]
    crashes: list[str]
    missing_pictures: list[str]
    send_errors: list[str] = field(default_factory=list)

    @property
    def written(self) -> Tally:
        """The request records that there were, be they lost with a log's end or written twice by a retry."""
        return _most(self.sent, self.requests)


def _most(one: Tally, other: Tally) -> Tally:
    return Tally(bytearray(map(max, one.counts, other.counts)))


def lost(due: Tally, seen: Tally) -> list[str]:
    """Job ids with fewer outcomes than request records."""
    return [_name(n) for n, (want, got) in enumerate(zip(due.counts, seen.counts, strict=True)) if got < want]


def duplicates(due: Tally, seen: Tally) -> list[str]:
    """Job ids with more outcomes than request records, be these in the topics still or not."""
    return [_name(n) for n, (want, got) in enumerate(zip(due.counts, seen.counts, strict=True)) if got > want]


def complaints(evidence: Evidence) -> list[str]:
    """One line for each thing that must not be; empty for a run that has passed."""
    found = {
        "lost, says the consumer that followed": lost(evidence.requests, evidence.live),
        "lost, says a fresh read": lost(evidence.requests, evidence.fresh),
        "duplicated, says the consumer that followed": duplicates(evidence.written, evidence.live),
        "duplicated, says a fresh read": duplicates(evidence.written, evidence.fresh),
        "dispatched more than once": duplicates(evidence.written, evidence.work) if evidence.work else [],
        "ended otherwise than they must": evidence.fresh.wrong,
        "committed offsets went back": evidence.regressed,
        "partitions have records without a committed end": [f"{p}: {n}" for p, n in evidence.behind.items()],
        "worker processes ended by themselves": evidence.crashes,
        "pictures of completed events are not in S3": evidence.missing_pictures,
        "requests could not be sent": evidence.send_errors,
    }
    lines = [f"{len(items)} {what}: {_some(items)}" for what, items in found.items() if items]
    if evidence.sent.total != evidence.jobs:
        lines.append(f"{evidence.sent.total} request records were acknowledged, not {evidence.jobs}")
    for place in evidence.sent.places.keys() | evidence.requests.places.keys():
        gone = evidence.sent.places[place] - evidence.requests.places[place]
        if gone > 0 and place not in evidence.shortened:
            lines.append(f"{gone} request records are gone from {place[0]}/{place[1]}")
    return lines


def _some(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def _name(number: int) -> str:
    return f"chaos-{number:07d}"
