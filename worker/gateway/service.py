"""What the gateway does: sends requests and cancellations, and keeps the board by what the topics say.

All of it runs on the event loop, so nothing here is locked.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from worker.client.requests import request_topic
from worker.events.headers import Input
from worker.events.types import GenerationCancellation, GenerationRequest, GenerationStatus, JobStatus, Priority
from worker.gateway.admission import Admission, lane_of
from worker.gateway.board import Board, Entry
from worker.gateway.hub import Hub, TooManyStreams
from worker.gateway.pictures import Pictures, digest_of
from worker.gateway.refusals import Refusal, try_later
from worker.gateway.sender import NotSent, Sender, TooLarge
from worker.gateway.tokens import RateLimit
from worker.gateway.topic_reader import Seen
from worker.topics import Topics

_KEY_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "sdxl-worker/gateway/idempotency-key")
_WITHOUT_PICTURE = frozenset({JobStatus.FAILED, JobStatus.CANCELLED})


@dataclass(frozen=True, slots=True)
class Sent:
    """The answer to a request: the job's status; `repeated`: it was known already, so nothing was sent."""

    job_id: str
    girl_id: str
    status: JobStatus
    repeated: bool


@dataclass(slots=True)
class Service:
    """The gateway's state, and what changes it.

    Args:
        unknown_wait_s: how long a job that nobody knows is waited for: another gateway may have sent it a moment ago.
    """

    topics: Topics
    admission: Admission
    board: Board
    hub: Hub
    sender: Sender
    pictures: Pictures | None
    rate: RateLimit
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    unknown_wait_s: float = 1.0
    _under_way: dict[str, tuple[str, asyncio.Task[None]]] = field(default_factory=dict)

    def on_seen(self, batch: list[Seen]) -> None:
        """Take what was read from the topics, and tell those who listen."""
        for seen in batch:
            self._publish(self._noted(seen))

    async def generate(self, body: bytes, *, key: str | None, client: str, passed: Mapping[str, str]) -> Sent:
        """Send the request that a body asks for, unless its job is known already.

        Args:
            key: the header Idempotency-Key: the same key of the same client means the same job.
            client: the name of the token.
            passed: headers that results carry on.

        Raises:
            Refusal: nothing was sent, or nobody knows whether it was; the sentence says which.
        """
        self.rate.take(client)
        job_id = None if key is None else job_id_of(client, key)
        request = self.admission.request(body, job_id=job_id, now=self.now())
        known = self.board.get(request.job_id)
        if known is not None:
            await self._require_same(request, known)
            if key is not None or known.event.status not in _WITHOUT_PICTURE:
                return Sent(request.job_id, request.girl_id, known.event.status, repeated=True)
        await self._send_once(request, passed)
        return Sent(request.job_id, request.girl_id, JobStatus.QUEUED, repeated=False)

    async def status(self, job_id: str, girl_id: str | None, client: str) -> GenerationStatus:
        """The latest status of a job; of one that is not remembered, what S3 knows of it.

        Raises:
            Refusal: 404, nothing is known of it; 503, S3 does not answer.
        """
        entry = self.board.get(job_id)
        if entry is not None:
            return entry.event
        arrived = await self._arrival(job_id)
        if arrived is not None:
            return arrived
        if girl_id is None or self.pictures is None:
            hint = "; with ?girl_id= S3 is asked too" if self.pictures is not None else ""
            raise Refusal(404, f"nothing is known of this job{hint}", "job_id")
        self.rate.take(client)
        found = await self.pictures.status(girl_id, job_id)
        if found is None:
            raise Refusal(404, "nothing is known of this job, and S3 has no picture of it", "job_id")
        return found

    async def cancel(self, job_id: str, reason: str | None, client: str, passed: Mapping[str, str]) -> JobStatus | None:
        """Ask the workers to stop a job, which may be one that is not known here.

        Returns:
            CANCELLED where it was stopped before, and nothing was sent.

        Raises:
            Refusal: 409, it has ended with or without a picture; 503.
        """
        self.rate.take(client)
        entry = self.board.get(job_id)
        if entry is not None and entry.event.status is JobStatus.CANCELLED:
            return JobStatus.CANCELLED
        if entry is not None and entry.ended:
            raise Refusal(409, f"the job has ended already: it is {entry.event.status.value}", "job_id")
        event = GenerationCancellation(
            job_id=job_id, reason=reason, requested_by=f"the gateway's client {client}", requested_at=self.now()
        )
        await self._send(self.topics.cancellations, event, passed)
        return None

    async def _arrival(self, job_id: str) -> GenerationStatus | None:
        try:
            listener = self.hub.listen(job_id)
        except TooManyStreams:
            return None
        try:
            events = await listener.next(self.unknown_wait_s)
        finally:
            self.hub.leave(job_id, listener)
        return events[-1] if events else None

    def _noted(self, seen: Seen) -> Entry | None:
        record, event = seen.record, seen.event
        if record.topic != self.topics.status:
            if not isinstance(event, GenerationRequest):
                return None
            lane = self.topics.requests.index(record.topic)
            moment = self.now() if record.timestamp_ms is None else _time(record.timestamp_ms)
            return self.board.on_request(_queued(event, lane, moment or self.now()), digest_of(event))
        if isinstance(event, GenerationStatus):
            return self.board.on_status(event, record.partition, record.offset)
        if not record.value and record.key is not None:
            self.board.on_tombstone(record.key.decode("utf-8", "replace"), record.partition)
        return None

    def _publish(self, entry: Entry | None) -> None:
        if entry is not None:
            self.hub.publish(entry.event)

    async def _require_same(self, request: GenerationRequest, known: Entry) -> None:
        """Raises Refusal: 409, the id was used for another request, as far as that can be known."""
        digest = known.digest
        if digest is None and known.event.status is JobStatus.COMPLETED and self.pictures is not None:
            digest = await self.pictures.digest(request)
        if digest is not None and digest != digest_of(request):
            raise _used_already()

    async def _send_once(self, request: GenerationRequest, passed: Mapping[str, str]) -> None:
        """Send it; the same request that arrives meanwhile waits for the same acknowledgement."""
        digest = digest_of(request)
        if request.job_id in self._under_way:
            other, task = self._under_way[request.job_id]
            if other != digest:
                raise _used_already()
        else:
            task = asyncio.create_task(self._send_request(request, digest, passed))
            self._under_way[request.job_id] = (digest, task)
            task.add_done_callback(lambda _: self._under_way.pop(request.job_id, None))
        # A client that leaves does not take back what is on its way.
        await asyncio.shield(task)

    async def _send_request(self, request: GenerationRequest, digest: str, passed: Mapping[str, str]) -> None:
        before = self.board.get(request.job_id)
        await self._send(request_topic(self.topics, request), request, passed)
        queued = _queued(request, lane_of(request), self.now())
        self._publish(self.board.on_sent(queued, digest, before))

    async def _send(self, topic: str, event: Input, passed: Mapping[str, str]) -> None:
        try:
            await self.sender.send(topic, event, passed)
        except NotSent as error:
            raise try_later(
                f"Kafka has not acknowledged it ({error}): send it again with the same Idempotency-Key or job_id", 2
            ) from error
        except TooLarge as error:
            raise Refusal(422, f"Kafka takes no such record: {error}") from error


def job_id_of(client: str, key: str) -> str:
    """The id of the job that a key stands for: the same at every gateway, another for another client."""
    return str(uuid.uuid5(_KEY_SPACE, f"{client}\n{key}"))


def _used_already() -> Refusal:
    return Refusal(409, "this Idempotency-Key or job_id was used for another request", "job_id")


def _queued(request: GenerationRequest, lane: int, moment: datetime) -> GenerationStatus:
    return GenerationStatus(
        job_id=request.job_id,
        girl_id=request.girl_id,
        user_id=request.user_id,
        status=JobStatus.QUEUED,
        num_inference_steps=request.num_inference_steps,
        priority=(Priority.URGENT, Priority.HIGH, Priority.NORMAL)[lane],
        updated_at=moment,
    )


def _time(timestamp_ms: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None
