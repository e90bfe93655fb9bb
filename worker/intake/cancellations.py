"""Cancellations: every worker reads all of them, since any may hold the job, now or after a rebalance."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.errors import RegistryUnavailable, UndecodableError
from worker.events.codec import EventCodec
from worker.events.types import GenerationCancellation
from worker.intake.cancelled_jobs import CLOCK_TOLERANCE_S, CancelledJobs
from worker.intake.records import Record, read_record
from worker.job import SAFE_NAME, Origin
from worker.telemetry import logs, metrics
from worker.threads import Threads

_log = structlog.get_logger()

# At the start, cancellations that were sent before are read for at most this long.
CATCH_UP_S = 10.0
# How often the topic is listed again, for partitions that are added later; the second while something is wrong.
LIST_AGAIN_S = 60.0
LIST_SOON_S = 5.0
# Records that wait for the schema registry. When there are as many, no more are read until it answers.
MAX_HELD = 1_000
REGISTRY_PAUSE_S = 1.0
_METADATA_TIMEOUT_S = 10.0
_MAX_REASON_CHARS = 300


class CancellationReader:
    """Reads the topic, `open` on the main thread and then all on a thread of its own.

    A worker without cancellations is of use, so whatever is wrong with the topic is only reported (`problem`).

    Args:
        consumer: of no group that matters: partitions are assigned, nothing is committed. It reports their ends.
        jobs: gets every cancellation that is read.
        cancel: is called with the job id of each.
        on_error: called with every error of the topic or of reading it.
    """

    def __init__(
        self,
        consumer: Consumer,
        topic: str,
        codec: EventCodec,
        jobs: CancelledJobs,
        cancel: Callable[[str], None],
        threads: Threads,
        on_error: Callable[[KafkaError], None] = lambda _error: None,
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self._codec = codec
        self._jobs = jobs
        self._cancel = cancel
        self._threads = threads
        self._on_error = on_error
        # The next offset of each assigned partition, and those whose end was reached once.
        self._next: dict[int, int] = {}
        self._caught_up: set[int] = set()
        self._list_at = 0.0
        self._held: deque[Record] = deque()
        self._retry_at = 0.0
        self._topic_problem: str | None = None
        self._fetch_problem: str | None = None
        self._told: str | None = None

    @property
    def problem(self) -> str | None:
        """Why cancellations are not read, as a sentence; None while they are. Any thread may ask."""
        if self._held:
            return f"{len(self._held)} cancellations wait for the schema registry"
        return self._topic_problem or self._fetch_problem

    def open(self) -> None:
        """Read what there is, so that no job starts whose cancellation was sent before; gives up after a while.

        A broker that is away just now keeps nobody from starting: the topic is read once it is back.
        """
        deadline = self._threads.monotonic() + CATCH_UP_S
        self._list_topic()
        while self._next.keys() - self._caught_up and self._threads.monotonic() < deadline:
            self._read(0.1)

    def tick(self) -> bool:
        """Read at most one cancellation; False when there was none."""
        return self._read(0.0)

    def wait(self, timeout_s: float) -> None:
        """Wait for the next cancellation, at most `timeout_s`, and read it."""
        self._read(timeout_s)

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def _read(self, timeout_s: float) -> bool:
        if self._threads.monotonic() >= self._list_at:
            self._list_topic()
        worked = self._retry_held()
        if len(self._held) >= MAX_HELD:
            self._threads.sleep(timeout_s)
        else:
            message = self._consumer.poll(0.0 if worked else timeout_s)
            if message is not None:
                worked = self._on_message(message) or worked
        self._report()
        return worked

    def _on_message(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            record = read_record(message, self._threads.now())
            self._fetch_problem = None
            self._next[record.partition] = record.offset + 1
            self._take(record)
            return True
        if error.code() == KafkaError._PARTITION_EOF:
            self._fetch_problem = None
            self._caught_up.add(message.partition() or 0)
        else:
            self._on_error(error)
            self._fetch_problem = _sentence(self._topic, error)
            self._list_soon()
        return False

    # Records.

    def _take(self, record: Record) -> None:
        try:
            self._apply(self._decode(record), record)
        except RegistryUnavailable:
            self._held.append(record)
            self._retry_at = self._threads.monotonic() + REGISTRY_PAUSE_S
        except UndecodableError as error:
            self._on_unreadable(record, str(error))
        except Exception as error:  # the last line of defence: whatever is in one record, the next ones are read
            _log.error("cancellation_failed_unexpectedly", **self._about(record), exc_info=True)
            self._on_unreadable(record, f"unexpected {type(error).__name__}")

    def _decode(self, record: Record) -> GenerationCancellation:
        event = self._codec.decode(
            record.value, topic=self._topic, headers=record.headers, expected=GenerationCancellation
        )
        # No other id is ever admitted, and one can be as long as a record.
        if not SAFE_NAME.fullmatch(event.job_id):
            raise UndecodableError("its job_id is one that no job can have")
        return event

    def _apply(self, event: GenerationCancellation, record: Record) -> None:
        now, reason = self._threads.now(), _reason(event)
        written_at = record.written_at
        if written_at is None or written_at > now + CLOCK_TOLERANCE_S:
            written_at = now
        self._jobs.add(event.job_id, min(written_at, now), reason)
        self._cancel(event.job_id)
        metrics.CANCELLATIONS.labels("read").inc()

    def _on_unreadable(self, record: Record, error: str) -> None:
        metrics.CANCELLATIONS.labels("unreadable").inc()
        _log.warning("cancellation_unreadable", **self._about(record), error=error)

    def _retry_held(self) -> bool:
        """Decode records that waited for the registry until one still cannot be; False when none could."""
        before = len(self._held)
        for _ in range(before):
            if self._threads.monotonic() < self._retry_at:
                break
            # One that fails again goes to the end, so that it does not hold up the others.
            self._take(self._held.popleft())
        return len(self._held) < before

    def _about(self, record: Record) -> logs.About:
        origin = Origin(record.topic, record.partition, record.offset, epoch=0)
        return logs.about_record(origin, record.key, record.headers)

    # The topic and its partitions.

    def _list_topic(self) -> None:
        """Look which partitions there are, and read new ones from their beginning."""
        self._topic_problem = self._assign()
        self._list_at = self._threads.monotonic() + LIST_AGAIN_S
        if self._topic_problem or self._fetch_problem:
            self._list_soon()

    def _list_soon(self) -> None:
        self._list_at = min(self._list_at, self._threads.monotonic() + LIST_SOON_S)

    def _assign(self) -> str | None:
        """Assign the partitions that there are; returns what is wrong with the topic."""
        try:
            found = self._consumer.list_topics(self._topic, timeout=_METADATA_TIMEOUT_S).topics.get(self._topic)
        except KafkaException as error:
            return _sentence(self._topic, error.args[0])
        if found is not None and found.error is not None:
            self._on_error(found.error)
            if found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                # When it is created again, it is another topic.
                self._next = {}
            return _sentence(self._topic, found.error)
        if found is None or not found.partitions:
            return f"the topic {self._topic} has no partitions"
        # librdkafka tells an error once; assigned anew, it tells it again or reads on.
        if found.partitions.keys() != self._next.keys() or self._fetch_problem is not None:
            self._next = {n: self._next.get(n, OFFSET_BEGINNING) for n in sorted(found.partitions)}
            self._consumer.assign([TopicPartition(self._topic, n, offset) for n, offset in self._next.items()])
        return None

    def _report(self) -> None:
        """Say so when something has changed."""
        problem = self.problem
        metrics.CANCELLATIONS_HELD.set(len(self._held))
        metrics.CANCELLATIONS_UP.set(problem is None)
        # The number of those that wait changes all the time.
        kind = "registry" if self._held else problem
        if kind == self._told:
            return
        self._told = kind
        if problem is None:
            _log.info("cancellations_are_read", topic=self._topic)
        else:
            _log.warning("cancellations_not_read", topic=self._topic, problem=problem)


def _reason(event: GenerationCancellation) -> str:
    """One printable line for the job's failed event."""
    text = f"cancelled by {event.requested_by or 'request'}" + (f": {event.reason}" if event.reason else "")
    text = "".join(sign if sign.isprintable() else " " for sign in text[: 2 * _MAX_REASON_CHARS])
    return " ".join(text.split())[:_MAX_REASON_CHARS]


def _sentence(topic: str, error: KafkaError) -> str:
    match error.code():
        case KafkaError.UNKNOWN_TOPIC_OR_PART | KafkaError._UNKNOWN_TOPIC | KafkaError._UNKNOWN_PARTITION:
            return f"the topic {topic} does not exist"
        case KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return f"this worker may not read the topic {topic}: it needs the rights DESCRIBE and READ"
        case _:
            return f"the topic {topic} cannot be read: {error.str()}"
