"""Kafka connection of the command line: client configuration, codec, and a sender that waits for acknowledgements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import (
    KafkaError,
    KafkaException,
    Message,
    Producer,
)
from confluent_kafka.admin import AdminClient

from worker.client.errors import CommandError
from worker.client.reach import Trouble, reach
from worker.errors import UndecodableError
from worker.events.codec import EventCodec, make_codec
from worker.events.headers import Input, request_headers
from worker.events.single_object import Headers
from worker.events.types import Event
from worker.kafka_config import sign_in
from worker.settings import Settings, load_settings
from worker.topics import Topics

SOURCE = "/sdxl-worker/cli"
ACK_TIMEOUT_MS = 30_000

# Properties that would make a client join a consumer group or claim a transactional id; the command line does neither.
_MEMBERSHIP = ("transactional.id", "group.id", "group.instance.id", "group.protocol", "group.remote.assignor")


@dataclass(frozen=True, slots=True)
class Record:
    """A record read from Kafka; `timestamp_ms` is None where the broker gave no timestamp."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int | None


@dataclass(frozen=True, slots=True)
class Connection:
    """The settings, topic names and codec that every verb that uses Kafka needs."""

    settings: Settings
    topics: Topics
    codec: EventCodec

    def config(self) -> dict[str, Any]:
        """Return librdkafka's properties; its log is off, because errors are reported as exceptions."""
        given = {k: v for k, v in self.settings.kafka_client_config().items() if k not in _MEMBERSHIP}
        return {"log_level": 0, **sign_in(self.settings), **given, "client.id": "sdxl-worker-cli"}

    def require_kafka(self) -> None:
        """See that Kafka answers, for verbs whose own calls would wait long for it. Raises CommandError."""
        trouble = self.trouble()
        reach(AdminClient(self.config() | {"error_cb": trouble}), trouble)

    def trouble(self) -> Trouble:
        """An `error_cb` for a client of this cluster."""
        return Trouble(str(self.config()["bootstrap.servers"]))

    def decode(self, record: Record) -> Event:
        """Decode the event of a record.

        Raises:
            UndecodableError: the record does not hold an event.
        """
        return self.codec.decode_any(record.value, topic=record.topic, headers=record.headers)


@contextmanager
def connect() -> Iterator[Connection]:
    """Load the settings from the environment, and make the codec that they configure."""
    settings = load_settings()
    codec = make_codec(settings)
    try:
        yield Connection(settings, Topics(settings.kafka_topic_prefix), codec)
    finally:
        codec.close()


class Sender:
    """An idempotent producer of requests and cancellations; `on_ack` is called with each acknowledged event.

    Raises:
        CommandError: Kafka does not answer; nothing was sent then.
    """

    def __init__(self, connection: Connection, on_ack: Callable[[Input, Message], None] | None = None) -> None:
        self._connection = connection
        self._on_ack = on_ack
        self._failed: list[str] = []
        own = {"enable.idempotence": True, "message.timeout.ms": ACK_TIMEOUT_MS, "linger.ms": 2}
        trouble = connection.trouble()
        self._producer = Producer(own | connection.config() | {"error_cb": trouble})
        reach(self._producer, trouble)

    def send(self, topic: str, event: Input) -> None:
        """Queue an event, keyed by its job id.

        Raises:
            ValueError: the event does not fit its schema, or is larger than a record may be.
        """
        try:
            value, framing = self._connection.codec.encode(event, topic=topic)
        except (ValueError, TypeError, OverflowError, UndecodableError) as error:
            raise ValueError(str(error)) from error
        headers = request_headers(event, source=SOURCE, now=datetime.now(UTC))
        self.produce(topic, event.job_id.encode(), value, (*headers, *framing), event)

    def produce(
        self,
        topic: str,
        key: bytes,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        event: Input | None = None,
        *,
        partition: int = -1,
    ) -> None:
        """Queue a record of raw bytes, or without a value, which compaction takes as the key's deletion.

        Args:
            partition: -1: the one that the key belongs to.

        Raises:
            ValueError: the record is larger than a record may be.
        """

        def on_delivery(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._failed.append(error.str())
            elif event is not None and self._on_ack is not None:
                self._on_ack(event, message)

        while True:
            try:
                self._producer.produce(topic, value, key, partition, headers=list(headers), on_delivery=on_delivery)
                break
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                raise ValueError(error.args[0].str()) from error
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until everything queued is acknowledged.

        Raises:
            CommandError: a record was not acknowledged.
        """
        left = self._producer.flush(ACK_TIMEOUT_MS / 1000 + 5)
        if self._failed or left:
            reason = self._failed[0] if self._failed else "no answer"
            servers = self._connection.settings.kafka_bootstrap_servers
            raise CommandError(f"{len(self._failed) + left} not acknowledged by {servers}: {reason}")
