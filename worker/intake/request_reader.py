"""From a record to an admitted request, one that was refused, or a dead letter; some wait for the schema registry."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog
from confluent_kafka import KafkaException

from worker.errors import ProtocolError, RegistryUnavailable, RequestRejected, UndecodableError
from worker.events.codec import EventCodec
from worker.events.headers import passed_through
from worker.events.types import GenerationRequest
from worker.failure import Failure
from worker.intake.admit import AdmissionRules, Arrival, admit, with_bounded_ids
from worker.intake.ledger import Ledger
from worker.intake.ledger import TopicPartition as Key
from worker.intake.records import Record
from worker.job import Job, Lane, Origin
from worker.outcome import Original
from worker.telemetry import logs

_log = structlog.get_logger()

# A writer's schema is fetched within milliseconds where the registry answers.
_REGISTRY_PAUSE_S = 0.1


class ReaderHooks(Protocol):
    """What becomes of a record; all of them return at once."""

    def on_undecodable(self, origin: Origin, original: Original, error: str) -> None: ...
    def on_admitted(self, job: Job, starts: int) -> None: ...
    def on_rejected(self, failure: Failure) -> None: ...


@dataclass(frozen=True, slots=True)
class _Held:
    """A record that cannot be decoded until the registry answers."""

    record: Record
    origin: Origin
    due: float


class RequestReader:
    """The poll thread's; `now` is in epoch seconds."""

    def __init__(
        self,
        ledger: Ledger,
        codec: EventCodec,
        rules: AdmissionRules,
        hooks: ReaderHooks,
        lanes: Mapping[str, Lane],
        now: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._codec = codec
        self._rules = rules
        self._hooks = hooks
        self._lanes = lanes
        self._now = now
        self._held: deque[_Held] = deque()

    def take(self, record: Record, origin: Origin) -> None:
        """Decode and admit; whatever is wrong with the record is its own trouble."""
        with logs.within(logs.about_record(origin, record.key, record.headers)):
            try:
                self._decode(record, origin)
            except (KafkaException, ProtocolError):
                raise
            except Exception as error:  # the last line of defence: a record must not end every worker in turn
                _log.error("record_failed_unexpectedly", exc_info=True)
                self._dead_letter(record, origin, f"unexpected {type(error).__name__} while the record was read")

    def retry_held(self) -> None:
        """Decode what waited for the registry."""
        now = self._now()
        while self._held and self._held[0].due <= now:
            held = self._held.popleft()
            self.take(held.record, held.origin)

    def release(self, partitions: Collection[Key]) -> None:
        """Release what is held of partitions that go; the caller holds the ledger's lock."""
        for held in [held for held in self._held if (held.origin.topic, held.origin.partition) in partitions]:
            self._held.remove(held)
            self._ledger.release(held.origin)

    def _dead_letter(self, record: Record, origin: Origin, error: str) -> None:
        original = Original(record.key, record.value, record.headers, record.written_at)
        self._hooks.on_undecodable(origin, original, error)

    def _decode(self, record: Record, origin: Origin) -> None:
        try:
            request = self._codec.decode(
                record.value, topic=origin.topic, headers=record.headers, expected=GenerationRequest
            )
        except UndecodableError as error:
            self._dead_letter(record, origin, str(error))
        except RegistryUnavailable as error:
            _log.warning("registry_unavailable", error=str(error))
            self._held.append(_Held(record, origin, self._now() + _REGISTRY_PAUSE_S))
        else:
            self._admit(request, record, origin)

    def _admit(self, request: GenerationRequest, record: Record, origin: Origin) -> None:
        now = self._now()
        recorded_at = now if record.written_at is None else record.written_at
        arrival = Arrival(origin, self._lanes[origin.topic], record.written_at, passed_through(record.headers))
        with self._ledger.lock:
            starts = self._ledger.starts(origin)
        try:
            job = admit(request, arrival, self._rules, now)
        except RequestRejected as error:
            self._hooks.on_rejected(
                Failure(
                    request=with_bounded_ids(request),
                    lane=arrival.lane,
                    origin=origin,
                    code=error.code,
                    message=error.message,
                    requested_at=recorded_at,
                    attempt=starts + 1,
                    headers=arrival.headers,
                )
            )
        else:
            self._hooks.on_admitted(job, starts)
