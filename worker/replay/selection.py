"""Select request records for a replay: by time, partition and offset, job id, or outcome. Pure functions.

A replay is not part of the consumer group: it assigns partitions directly and commits nothing.
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
    """The selected requests; every field narrows the selection. Times are milliseconds since the epoch.

    Args:
        since_ms: earliest time of the request record or, with `failed`, of the failed event, since the request is
            older than that.
        until_ms: end of the window, exclusive.
        offsets: first and last offset, both included, of one partition of one lane.
        failed: only jobs with a failed event in the window.
        error_codes: with `failed`, only jobs that failed with one of these codes; empty means any code.
    """

    lanes: tuple[Lane, ...] = tuple(Lane)
    since_ms: int | None = None
    until_ms: int | None = None
    partition: int | None = None
    offsets: tuple[int, int] | None = None
    job_ids: tuple[str, ...] = ()
    failed: bool = False
    error_codes: tuple[ErrorCode, ...] = ()

    @property
    def has_window(self) -> bool:
        """Whether the time of a request decides if it is selected."""
        return not self.failed and (self.since_ms is not None or self.until_ms is not None)

    def covers(self, partition: int, offset: int, requested_ms: int | None) -> bool:
        """Return whether a request record of a selected lane is in the selected partition, offsets and window."""
        if self.partition is not None and partition != self.partition:
            return False
        if self.offsets is not None and not self.offsets[0] <= offset <= self.offsets[1]:
            return False
        return self.failed or self.in_window(requested_ms)

    def in_window(self, recorded_ms: int | None) -> bool:
        """Return whether a time is in the window; a record whose time is not known is only in an unlimited one."""
        if recorded_ms is None:
            return self.since_ms is None and self.until_ms is None
        early = self.since_ms is not None and recorded_ms < self.since_ms
        return not early and (self.until_ms is None or recorded_ms < self.until_ms)

    def names(self, job_id: str, history: History) -> bool:
        """Return whether the ids and the outcomes that are asked for are those of a job."""
        if self.job_ids and job_id not in self.job_ids:
            return False
        return not self.failed or job_id in history.matching

    def leaves_out_cancelled(self, job_id: str, history: History) -> bool:
        """Return whether a job was cancelled, and neither its id nor the code `cancelled` was given."""
        cancelled = job_id not in history.completed and history.failed.get(job_id) is ErrorCode.CANCELLED
        return cancelled and not self.job_ids and ErrorCode.CANCELLED not in self.error_codes

    def takes(self, job_id: str, history: History) -> bool:
        """Return whether a job is selected: it is named, and not left out as cancelled."""
        return self.names(job_id, history) and not self.leaves_out_cancelled(job_id, history)

    def to_json(self) -> dict[str, Any]:
        """Return the selection as JSON types that `from_json` can read."""
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
        """Build a selection from the result of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: `record` is something else.
        """
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
    """The outcomes of jobs, read from the result topics.

    `failed` holds the latest error code of each job, `matching` the jobs with a failed event that the selection asks
    for, and `answered` the jobs whose result of this replay is already published.
    """

    selection: Selection
    replay_id: str | None = None
    completed: dict[str, list[GenerationCompleted]] = field(default_factory=dict)
    failed: dict[str, ErrorCode] = field(default_factory=dict)
    matching: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)

    def note(self, event: GenerationCompleted | GenerationFailed, recorded_ms: int | None) -> None:
        """Add an event of a result topic; events must be added in order. `recorded_ms` is the record's timestamp."""
        job_id = event.job_id
        if event.replay_id is not None and event.replay_id == self.replay_id:
            # The replay's own results must not change which jobs it selects when it is continued.
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
    """A request read from its record; `recorded_at` is the record's timestamp in seconds since the epoch."""

    request: GenerationRequest
    lane: Lane
    origin: Origin
    recorded_at: float
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def job_id(self) -> str:
        return self.request.job_id


def by_job(records: Iterable[Requested]) -> list[list[Requested]]:
    """Group records by job id, in order of first appearance, since a job is replayed once."""
    jobs: dict[str, list[Requested]] = {}
    for record in records:
        jobs.setdefault(record.job_id, []).append(record)
    return list(jobs.values())


def admit_again(requested: Requested, rules: AdmissionRules, now: float, replay_id: str | None = None) -> Job:
    """Admit a past request now: its `expires_at` is ignored, and its waiting time starts at `now`.

    Raises:
        RequestRejected: as raised by `admit`.
    """
    request = requested.request
    arrival = Arrival(requested.origin, requested.lane, now, requested.headers, replay_id=replay_id)
    job = admit(replace(request, expires_at=None), arrival, rules, now)
    # The manifest's request and digest must be those of the record, with `expires_at`.
    return replace(job, request=request, requested_at=now)
