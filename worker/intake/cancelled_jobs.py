"""Which jobs are cancelled, by the order in which Kafka recorded request and cancellation. Pure, but for a lock."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from cachetools import TTLCache

from worker.job import Job
from worker.telemetry import metrics

# A request and its cancellation may be recorded by the clocks of two machines, so a cancellation also covers a request
# that was recorded up to so much later. Where clocks differ by more, set message.timestamp.type=LogAppendTime.
CLOCK_TOLERANCE_S = 10.0

# The topic's retention; beyond it no cancellation could be read again either.
REMEMBERED_S = 24 * 60 * 60
REMEMBERED_IDS = 100_000


@dataclass(slots=True)
class _Cancellation:
    """The latest one of a job id.

    Args:
        written_at: epoch seconds.
        first_covered: when the earliest request that it covers was recorded; None before there is one.
    """

    written_at: float
    reason: str
    first_covered: float | None = None

    def covers(self, recorded_at: float | None) -> bool:
        """Whether a request recorded at that time is cancelled; None is of an unknown time."""
        if recorded_at is None or recorded_at <= self.written_at:
            return True
        if recorded_at > self.written_at + CLOCK_TOLERANCE_S:
            return False
        # Either its clock is ahead, or somebody wants the picture after all. In the second case there is an earlier
        # request, which the cancellation was meant for.
        return self.first_covered is None or recorded_at <= self.first_covered


class CancelledJobs:
    """Which job ids were cancelled lately, when and why. Any thread may ask."""

    def __init__(self, remembered_ids: int = REMEMBERED_IDS) -> None:
        self._lock = threading.Lock()
        self._known = _CountingCache(remembered_ids, REMEMBERED_S)

    def add(self, job_id: str, written_at: float, reason: str) -> None:
        """A cancellation was read that was written at `written_at`, in epoch seconds; the latest of an id counts."""
        with self._lock:
            known = self._known.get(job_id)
            if known is None:
                self._known[job_id] = _Cancellation(written_at, reason)
            elif known.written_at < written_at:
                # Sent twice within a moment, it is the same wish.
                is_repeat = written_at <= known.written_at + CLOCK_TOLERANCE_S
                self._known[job_id] = _Cancellation(written_at, reason, known.first_covered if is_repeat else None)

    def reason(self, job: Job) -> str | None:
        """Why the job is cancelled; None when it is not, or was requested again after that.

        A request whose record has no usable time counts as older than any cancellation.
        """
        recorded_at = _recorded_at(job)
        with self._lock:
            found = self._known.get(job.job_id)
            if found is None or not found.covers(recorded_at):
                return None
            if recorded_at is not None and (found.first_covered is None or recorded_at < found.first_covered):
                found.first_covered = recorded_at
            return found.reason


class _CountingCache(TTLCache[str, _Cancellation]):
    """Counts what it evicts because it is full, since those jobs are no longer known to be cancelled."""

    def popitem(self) -> tuple[str, _Cancellation]:
        metrics.CANCELLATIONS_EVICTED.inc()
        return super().popitem()


def _recorded_at(job: Job) -> float | None:
    """When the job's record was written; None where that is not known or lies in the future.

    Nothing is recorded after it was received, so a clock that is a little ahead is set right by that.
    """
    if job.recorded_at is None or job.recorded_at > job.received_at + CLOCK_TOLERANCE_S:
        return None
    return min(job.recorded_at, job.received_at)
