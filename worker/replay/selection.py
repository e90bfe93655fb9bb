"""Which request records a replay takes: by time, place, id, or by how their job ended. Pure.

Nothing here knows the group: a replay reads by assignment and commits nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from worker.errors import ErrorCode
from worker.events.types import GenerationCompleted, GenerationFailed, GenerationRequest
from worker.intake.admit import AdmissionRules, Arrival, admit
from worker.job import Job, Lane, Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What was asked for; every part narrows it. Times are milliseconds since the epoch.

    Args:
        since_ms: of the record; with `failed`, of the failed event, for the request came before it.
        until_ms: the first moment that is too late.
        offsets: first and last of one partition of one lane, both taken.
        failed: only jobs with a failed event.
        error_codes: with `failed`, only those with one of these; empty: any.
    """

    lanes: tuple[Lane, ...] = tuple(Lane)
    since_ms: int | None = None
    until_ms: int | None = None
    partition: int | None = None
    offsets: tuple[int, int] | None = None
    job_ids: tuple[str, ...] = ()
    failed: bool = False
    error_codes: tuple[ErrorCode, ...] = ()

    def covers(self, partition: int, offset: int, recorded_ms: int | None) -> bool:
        """Whether a request record of a chosen lane is in the chosen place and time."""
        if self.partition is not None and partition != self.partition:
            return False
        if self.offsets is not None and not self.offsets[0] <= offset <= self.offsets[1]:
            return False
        return self.failed or self.in_window(recorded_ms)

    def in_window(self, recorded_ms: int | None) -> bool:
        """Whether a record's time is in the window; one without a time is in no window."""
        if recorded_ms is None:
            return self.since_ms is None and self.until_ms is None
        early = self.since_ms is not None and recorded_ms < self.since_ms
        return not early and (self.until_ms is None or recorded_ms < self.until_ms)

    def takes(self, job_id: str, history: History) -> bool:
        """Whether a job is meant. A cancelled one is only when it is named, or its code: nobody waits for it."""
        if self.job_ids and job_id not in self.job_ids:
            return False
        if self.failed and job_id not in history.matching:
            return False
        cancelled = job_id not in history.completed and history.failed.get(job_id) is ErrorCode.CANCELLED
        return not cancelled or bool(self.job_ids) or ErrorCode.CANCELLED in self.error_codes

    def to_json(self) -> dict[str, Any]:
        """As JSON types, for `from_json`."""
        return {
            "lanes": [lane.label for lane in self.lanes],
            "since_ms": self.since_ms,
            "until_ms": self.until_ms,
            "partition": self.partition,
            "offsets": self.offsets and list(self.offsets),
            "job_ids": list(self.job_ids),
            "failed": self.failed,
            "error_codes": [code.value for code in self.error_codes],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Selection:
        """The counterpart of `to_json`. Raises KeyError, TypeError, ValueError for anything else."""
        offsets = record["offsets"]
        return cls(
            lanes=tuple(Lane[label.upper()] for label in record["lanes"]),
            since_ms=record["since_ms"],
            until_ms=record["until_ms"],
            partition=record["partition"],
            offsets=None if offsets is None else (int(offsets[0]), int(offsets[1])),
            job_ids=tuple(record["job_ids"]),
            failed=record["failed"],
            error_codes=tuple(ErrorCode(code) for code in record["error_codes"]),
        )


@dataclass(slots=True)
class History:
    """How jobs ended, by what the result topics say.

    `failed` holds the latest code, `matching` the jobs with a failed event that the selection asks for, and
    `answered` those whose result of this very replay is there already.
    """

    selection: Selection
    replay_id: str | None = None
    completed: dict[str, list[GenerationCompleted]] = field(default_factory=dict)
    failed: dict[str, ErrorCode] = field(default_factory=dict)
    matching: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)

    def note(self, event: GenerationCompleted | GenerationFailed, recorded_ms: int | None) -> None:
        """Take in the next event of a result topic."""
        job_id = event.job_id
        if event.replay_id is not None and event.replay_id == self.replay_id:
            # Its own results must not change what an interrupted replay takes up again.
            self.answered.add(job_id)
        elif isinstance(event, GenerationCompleted):
            self.completed.setdefault(job_id, []).append(event)
        else:
            self.failed[job_id] = event.error_code
            codes = self.selection.error_codes
            if self.selection.in_window(recorded_ms) and (not codes or event.error_code in codes):
                self.matching.add(job_id)


@dataclass(frozen=True, slots=True)
class Requested:
    """A request record; `recorded_at` is seconds since the epoch."""

    request: GenerationRequest
    lane: Lane
    origin: Origin
    recorded_at: float
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def job_id(self) -> str:
        return self.request.job_id


def by_job(records: Iterable[Requested]) -> list[list[Requested]]:
    """The records of each job id, in the order of first appearance; a job is replayed once."""
    jobs: dict[str, list[Requested]] = {}
    for record in records:
        jobs.setdefault(record.job_id, []).append(record)
    return list(jobs.values())


def admit_again(requested: Requested, rules: AdmissionRules, now: float, replay_id: str | None = None) -> Job:
    """The job of a request that is made again, now: an old `expires_at` does not end it, and its wait starts anew.

    Raises:
        RequestRejected: as `admit`.
    """
    request = requested.request
    arrival = Arrival(requested.origin, requested.lane, now, requested.headers, replay_id=replay_id)
    job = admit(replace(request, expires_at=None), arrival, rules, now)
    # The stored request, and its digest, are those of the record.
    return replace(job, request=request, requested_at=now)
