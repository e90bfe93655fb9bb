"""From an end to the records that announce it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from worker.errors import ErrorCode
from worker.events.dead_letters import VALUE_BYTES, WORKER_ID, dead_letter_headers
from worker.events.headers import result_headers
from worker.events.types import (
    GenerationCompleted,
    GenerationFailed,
    GenerationStatus,
    JobStatus,
    Priority,
    timestamp,
)
from worker.failure import Failure
from worker.job import Job, Lane, Origin
from worker.outcome import Message, Notice, Original, Outcome
from worker.topics import Topics


@dataclass(frozen=True, slots=True)
class MessageWriter:
    """Writes results for one worker. Times are seconds since the epoch."""

    topics: Topics
    worker_id: str
    # The consumer group that reads the requests, where there is one.
    group: str | None = None

    def completed(self, job: Job, event: GenerationCompleted, now: float) -> Outcome:
        """The completed event and the last status of `job`."""
        status = self._status(
            job,
            JobStatus.COMPLETED,
            now,
            image_url=event.image_url,
            thumbnail_url=event.thumbnail_url,
            generation_time=event.generation_time,
        )
        result = self._message(self.topics.completed, event, job, now)
        reason = "the picture is stored, but its completed event was refused as too large"
        smallest = self.failed(Failure.of(job, ErrorCode.INTERNAL, reason), now).messages
        return Outcome(origin=job.origin, messages=(result, status), urgent=job.lane is Lane.URGENT, smallest=smallest)

    def failed(self, failure: Failure, now: float) -> Outcome:
        """The failed event and the last status of a request."""
        cancelled = failure.code is ErrorCode.CANCELLED
        status = self._status(
            failure,
            JobStatus.CANCELLED if cancelled else JobStatus.FAILED,
            now,
            error_code=failure.code,
            error_message=failure.message,
        )
        return self._failed(failure, status, now)

    def refused(self, failure: Failure, picture: GenerationCompleted, now: float) -> Outcome:
        """The failed event of a request whose id is that of a picture, which stays what the job's status tells.

        It is written anew, since the refused request may have been reported as queued under that id.
        """
        return self._failed(failure, self._picture_status(failure, picture, now), now)

    def dead_letter(self, origin: Origin, original: Original, error: str) -> Outcome:
        """The original bytes and headers, with headers that say where they came from and what is wrong."""
        headers = tuple((name, v.encode() if isinstance(v, str) else v) for name, v in original.headers or ())
        written_ms = None if original.written_at is None else round(original.written_at * 1000)
        extra = (
            *dead_letter_headers(origin.topic, origin.partition, origin.offset, written_ms, error, group=self.group),
            (WORKER_ID, self.worker_id.encode()),
        )
        topic = self.topics.dead_letter
        message = Message(topic=topic, key=original.key, value=original.value, headers=headers + extra)
        # The original is where dlq-topic, dlq-partition and dlq-offset say, for as long as that topic keeps it.
        left_out = str(len(original.value or b"")).encode()
        smallest = Message(topic=topic, key=None, value=None, headers=(*extra, (VALUE_BYTES, left_out)))
        return Outcome(origin=origin, messages=(message,), smallest=(smallest,))

    def progress(self, job: Job, status: JobStatus, now: float, step: int | None = None) -> Notice:
        """Where `job` stands; `step` of `num_inference_steps`."""
        return Notice(origin=job.origin, message=self._status(job, status, now, step=step))

    def _failed(self, failure: Failure, status: Message, now: float) -> Outcome:
        return Outcome(
            origin=failure.origin,
            messages=(self._failed_result(failure, now), status),
            urgent=failure.lane is Lane.URGENT,
            smallest=(self._failed_result(replace(failure, message=""), now), status),
        )

    def _failed_result(self, failure: Failure, now: float) -> Message:
        request = failure.request
        event = GenerationFailed(
            job_id=request.job_id,
            girl_id=request.girl_id,
            user_id=request.user_id,
            priority=Priority(failure.lane.label),
            error_code=failure.code,
            error_message=failure.message,
            retryable=failure.code.retryable,
            attempt=failure.attempt,
            worker_id=self.worker_id,
            replay_id=failure.replay_id,
            failed_at=timestamp(now),
        )
        return self._message(self.topics.failed, event, failure, now)

    def _status(
        self,
        job: Job | Failure,
        status: JobStatus,
        now: float,
        *,
        step: int | None = None,
        image_url: str | None = None,
        thumbnail_url: str | None = None,
        generation_time: float | None = None,
        error_code: ErrorCode | None = None,
        error_message: str | None = None,
    ) -> Message:
        request = job.request
        event = GenerationStatus(
            job_id=request.job_id,
            girl_id=request.girl_id,
            user_id=request.user_id,
            status=status,
            step=step,
            num_inference_steps=job.num_inference_steps,
            priority=Priority(job.lane.label),
            image_url=image_url,
            thumbnail_url=thumbnail_url,
            generation_time=generation_time,
            error_code=error_code,
            error_message=error_message,
            worker_id=self.worker_id,
            attempt=job.attempt,
            updated_at=timestamp(now),
        )
        return self._message(self.topics.status, event, job, now)

    def _picture_status(self, failure: Failure, picture: GenerationCompleted, now: float) -> Message:
        event = GenerationStatus(
            job_id=picture.job_id,
            girl_id=picture.girl_id,
            user_id=picture.user_id,
            status=JobStatus.COMPLETED,
            num_inference_steps=picture.num_inference_steps,
            priority=picture.priority,
            image_url=picture.image_url,
            thumbnail_url=picture.thumbnail_url,
            generation_time=picture.generation_time,
            worker_id=picture.worker_id,
            attempt=picture.attempt,
            updated_at=timestamp(now),
        )
        return self._message(self.topics.status, event, failure, now)

    def _message(
        self,
        topic: str,
        event: GenerationCompleted | GenerationFailed | GenerationStatus,
        job: Job | Failure,
        now: float,
    ) -> Message:
        origin = job.origin
        headers = result_headers(
            event,
            source=f"/sdxl-worker/{self.worker_id}",
            now=timestamp(now),
            answers=(origin.topic, origin.partition, origin.offset),
            replay_id=job.replay_id,
            duration_ms=max(0, round((now - job.requested_at) * 1000)),
            passed=job.headers,
        )
        return Message(topic=topic, key=event.job_id.encode(), value=event, headers=headers)
