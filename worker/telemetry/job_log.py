"""Log lines for every stage of a job, and its spans if tracing is enabled.

The job lifecycle calls this at each stage. No call blocks, and no span is created while a job is on the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog

from worker.errors import ErrorCode
from worker.failure import Failure
from worker.job import Job, Origin
from worker.picture import Picture
from worker.telemetry import logs
from worker.work_in_hand import WorkInHand

if TYPE_CHECKING:
    from worker.telemetry.spans import Spans

_log = structlog.get_logger()


@dataclass(slots=True)
class _Entry:
    """An unfinished job: the fields of its log lines, and its outcome once it is known."""

    about: logs.About
    taken_at: float
    outcome: dict[str, object] = field(default_factory=dict)


class JobLog:
    """Logs the stages of jobs; holds an entry for each unfinished job only.

    It may be called from any thread, because only one thread handles a job at a time. Times are seconds since the
    epoch.
    """

    def __init__(self, spans: Spans | None = None, work: WorkInHand | None = None) -> None:
        self._spans = spans
        self._work = WorkInHand() if work is None else work
        self._entries: dict[Origin, _Entry] = {}

    def on_admitted(self, job: Job) -> Job:
        """Log that a request was admitted; return the job, with the headers of its span if tracing is enabled."""
        if self._spans is not None:
            job = replace(job, headers=job.headers | self._spans.begin(job, job.received_at))
        self._entries[job.origin] = entry = _Entry(logs.about(job), job.received_at)
        self._work.on_admitted(job)
        _log.info("job_taken", **entry.about)
        return job

    def on_started(self, job: Job) -> None:
        """Log that the record of the job's start is durable."""
        self._work.on_started(job)
        _log.info("job_started", **logs.about(job), attempt=job.attempt)

    def on_pixels(self, picture: Picture) -> None:
        """Record the phases of a job that left the GPU as pixels."""
        self._work.on_pixels(picture)
        timing, origin = picture.timing, picture.job.origin
        begin, end = timing.started_at, timing.started_at + timing.generation
        self.phase(origin, "encode_text", begin, begin + timing.encode_text)
        self.phase(origin, "denoise", begin + timing.encode_text, end - timing.decode)
        self.phase(origin, "decode", end - timing.decode, end)

    def phase(self, origin: Origin, name: str, begin: float, end: float) -> None:
        """Record one phase of a job."""
        if self._spans is not None:
            self._spans.phase(origin, name, begin, end)

    def on_stored(self, job: Job, now: float) -> Job:
        """Record that the job's picture is in S3; return the job, with the headers of its result."""
        self._work.on_gone(job.origin)
        self._entry(job, now).outcome |= {"status": "completed", "attempt": job.attempt}
        if self._spans is None:
            return job
        return replace(job, headers=job.headers | self._spans.send(job, job.attempt, None, now))

    def on_failed(self, failure: Failure, now: float) -> Failure:
        """Record the end of a request without a picture; return it with the headers of its result."""
        self._work.on_gone(failure.origin)
        known = failure.origin in self._entries
        if self._spans is not None:
            begun = {} if known else self._spans.begin(failure, now)
            sent = self._spans.send(failure, failure.attempt, failure.code, now)
            failure = replace(failure, headers=failure.headers | begun | sent)
        status = "cancelled" if failure.code is ErrorCode.CANCELLED else "failed"
        self._entry(failure, now).outcome |= {
            "status": status,
            "attempt": failure.attempt,
            "error_code": failure.code.value,
            "reason": failure.message,
        }
        return failure

    def on_committed(self, origin: Origin, now: float) -> None:
        """Log the end of a job, now that its outcome is durable."""
        entry = self._entries.pop(origin, None)
        if entry is not None:
            _log.info("job_ended", **entry.about, **entry.outcome, seconds=round(now - entry.taken_at, 3))
        if self._spans is not None:
            self._spans.end(origin, now)

    def on_released(self, origin: Origin, now: float) -> None:
        """Log that the job was released without an outcome; its next owner starts it again."""
        self._work.on_gone(origin)
        entry = self._entries.pop(origin, None)
        if entry is not None:
            _log.info("job_released", **entry.about)
        if self._spans is not None:
            self._spans.release(origin, now)

    def _entry(self, job: Job | Failure, now: float) -> _Entry:
        return self._entries.setdefault(job.origin, _Entry(logs.about(job), now))
