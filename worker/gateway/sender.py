"""Sends requests and cancellations, each of which counts once Kafka has acknowledged it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from worker.client.connection import Connection
from worker.errors import RegistryUnavailable, UndecodableError
from worker.events.headers import Input, request_headers
from worker.kafka_config import ErrorLog
from worker.telemetry import metrics

_log = structlog.get_logger()

SOURCE = "/sdxl-worker/gateway"
_POLL_S = 0.1
# While Kafka is away; beyond it the answer is 503 at once.
_MAX_QUEUED = 10_000
_MAX_QUEUED_KIB = 64 * 1024


class NotSent(Exception):
    """Kafka did not acknowledge the record. It may have arrived all the same, so it is sent again under its id."""


class TooLarge(Exception):
    """No broker takes a record of that size, or it does not fit its schema."""


class Sender(Protocol):
    """What sends; tests have one of their own."""

    async def send(self, topic: str, event: Input, passed: Mapping[str, str]) -> None:
        """Send an event, keyed by its job id, and wait for the acknowledgement.

        Args:
            passed: headers of the HTTP request that results carry on (`headers.passed_through`).

        Raises:
            NotSent, TooLarge: as they say.
        """


class KafkaSender:
    """An idempotent producer, and the thread that waits for its acknowledgements."""

    def __init__(
        self, connection: Connection, timeout_s: float, make_producer: Callable[[dict[str, Any]], Producer] = Producer
    ) -> None:
        self._connection = connection
        self._make = make_producer
        self._errors = ErrorLog()
        self._config = {
            "enable.idempotence": True,
            "message.timeout.ms": round(timeout_s * 1000),
            "linger.ms": 2,
            "queue.buffering.max.messages": _MAX_QUEUED,
            "queue.buffering.max.kbytes": _MAX_QUEUED_KIB,
            **connection.config(),
            "client.id": "sdxl-worker-gateway",
            "error_cb": self._on_error,
        }
        self._producer = make_producer(self._config)
        self._is_fatal = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="gateway-sender", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Wait for what is under way, and end the thread."""
        self._producer.flush(timeout_s)
        self._stop.set()
        self._thread.join(timeout_s)

    async def send(self, topic: str, event: Input, passed: Mapping[str, str]) -> None:
        """See `Sender`."""
        began, result = time.monotonic(), "not_sent"
        try:
            await self._send(topic, event, passed)
            result = "sent"
        finally:
            metrics.GATEWAY_SEND.labels(result).observe(time.monotonic() - began)

    async def _send(self, topic: str, event: Input, passed: Mapping[str, str]) -> None:
        try:
            # The codec may ask the registry, which would keep the event loop from answering.
            value, framing = await asyncio.to_thread(self._connection.codec.encode, event, topic=topic)
        except RegistryUnavailable as error:
            _log.warning("registry_unavailable", reason=str(error))
            raise NotSent("the schema registry does not answer") from error
        except (ValueError, TypeError, OverflowError, UndecodableError) as error:
            raise TooLarge(str(error)) from error
        headers = (*request_headers(event, source=SOURCE, now=datetime.now(UTC), passed=passed), *framing)
        loop = asyncio.get_running_loop()
        acknowledged: asyncio.Future[None] = loop.create_future()

        def on_delivery(error: KafkaError | None, _message: Message) -> None:
            loop.call_soon_threadsafe(_settle, acknowledged, error)

        try:
            self._usable().produce(topic, value, event.job_id.encode(), headers=list(headers), on_delivery=on_delivery)
        except BufferError:
            raise NotSent("too many requests wait for Kafka") from None
        except KafkaException as error:
            raise _failure(error.args[0]) from error
        await acknowledged

    def _usable(self) -> Producer:
        """The producer; a new one after an error that librdkafka calls fatal, which no later record survives."""
        if self._is_fatal:
            self._is_fatal = False
            self._producer = self._make(self._config)
        return self._producer

    def _on_error(self, error: KafkaError) -> None:
        self._is_fatal = self._is_fatal or error.fatal()
        self._errors(error)

    def _poll(self) -> None:
        while not self._stop.is_set():
            self._producer.poll(_POLL_S)


def _settle(acknowledged: asyncio.Future[None], error: KafkaError | None) -> None:
    if acknowledged.done():
        return
    if error is None:
        acknowledged.set_result(None)
    else:
        acknowledged.set_exception(_failure(error))


def _failure(error: KafkaError) -> Exception:
    if error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE):
        return TooLarge(error.str())
    return NotSent(error.str())
