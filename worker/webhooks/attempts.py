"""One attempt to deliver a result, and what becomes of the delivery."""

from __future__ import annotations

import time
from typing import Any, Protocol

import structlog

from worker.errors import RegistryUnavailable, UndecodableError
from worker.events.codec import EventCodec
from worker.events.types import GenerationCompleted, GenerationFailed
from worker.telemetry import metrics
from worker.webhooks.answers import Answer, Verdict
from worker.webhooks.payload import Payload, payload
from worker.webhooks.progress import Progress
from worker.webhooks.queue import Delivery, DeliveryQueue

_log = structlog.get_logger()

REGISTRY_PAUSE_S = 1.0
TELL_EVERY_S = 30.0


class Sends(Protocol):
    """What makes the requests."""

    async def send(self, payload: Payload, now_s: float) -> Answer: ...


class News:
    """Warnings about an outage; times are monotonic seconds."""

    def __init__(self) -> None:
        self._tell_at = 0.0

    def tell(self, now: float, event: str, **fields: Any) -> None:
        """A warning, at most every half minute: an outage is one piece of news."""
        if now >= self._tell_at:
            self._tell_at = now + TELL_EVERY_S
            _log.warning(event, **fields)

    def over(self) -> None:
        """The next trouble is news again."""
        self._tell_at = 0.0


class Attempts:
    """Makes requests for deliveries that the queue has given out, and tells queue and progress how they ended."""

    def __init__(self, queue: DeliveryQueue, progress: Progress, codec: EventCodec, sender: Sends, news: News) -> None:
        self._queue = queue
        self._progress = progress
        self._codec = codec
        self._sender = sender
        self._news = news

    async def make(self, delivery: Delivery) -> None:
        """One attempt; a delivery whose partition is gone meanwhile was cancelled with its task."""
        began = time.monotonic()
        try:
            sent = self._payload(delivery)
            if sent is None:
                self._queue.refused(delivery)
                self._progress.finish(delivery.place[:2], delivery.place[2])
                return
            answer = await self._sender.send(sent, time.time())
            self._conclude(delivery, sent, answer, time.monotonic() - began)
        except RegistryUnavailable as error:
            self._queue.postpone(delivery, time.monotonic() + REGISTRY_PAUSE_S)
            self._news.tell(time.monotonic(), "registry_unavailable", error=str(error))

    def _payload(self, delivery: Delivery) -> Payload | None:
        """The webhook, or None where the record is none and never will be. Raises RegistryUnavailable."""
        try:
            event = self._codec.decode_any(delivery.value, topic=delivery.place[0], headers=delivery.headers)
            if not isinstance(event, GenerationCompleted | GenerationFailed):
                raise UndecodableError(f"a {type(event).__name__} is no result")
            return payload(event, delivery.headers, delivery.place)
        except UndecodableError as error:
            metrics.WEBHOOKS.labels("given_up").inc()
            _log.error("webhook_given_up", reason=str(error), **_about(delivery))
            return None

    def _conclude(self, delivery: Delivery, sent: Payload, answer: Answer, seconds: float) -> None:
        verdict, was_failing = answer.verdict, self._queue.is_failing
        if verdict is Verdict.DELIVERED:
            self._queue.delivered(delivery)
        elif verdict is Verdict.GIVE_UP:
            self._queue.refused(delivery)
        elif not self._queue.failed(delivery, time.monotonic(), answer.retry_after_s):
            verdict = Verdict.GIVE_UP
        metrics.WEBHOOKS.labels(verdict.value).inc()
        metrics.WEBHOOK_SECONDS.observe(seconds)
        about = {"webhook_id": sent.webhook_id, "attempts": delivery.attempts, **_about(delivery)}
        match verdict:
            case Verdict.TRY_AGAIN:
                self._news.tell(time.monotonic(), "webhook_failed", reason=answer.reason, **about)
                return
            case Verdict.GIVE_UP:
                _log.error("webhook_given_up", status=answer.status, reason=answer.reason, **about)
            case Verdict.DELIVERED:
                _log.info("webhook_delivered", status=answer.status, seconds=round(seconds, 3), **about)
        if was_failing:
            _log.info("webhook_receiver_is_back")
            self._news.over()
        self._progress.finish(delivery.place[:2], delivery.place[2])


def _about(delivery: Delivery) -> dict[str, Any]:
    topic, partition, offset = delivery.place
    return {"job_id": delivery.job.decode(errors="replace"), "topic": topic, "partition": partition, "offset": offset}
