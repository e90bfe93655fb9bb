"""What the topics tell of a subject: its jobs, those that are still under way, and its statuses."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from worker.cli.forget.subject import Subject
from worker.cli.requests import utc_now
from worker.client.connection import SOURCE, Connection, Record, Sender
from worker.client.reader import Reader
from worker.errors import UndecodableError
from worker.events.types import (
    Event,
    GenerationCancellation,
    GenerationCompleted,
    GenerationFailed,
    GenerationRequest,
    GenerationStatus,
    WorkerReport,
)

POLL_S = 0.1
# As for cancellations (docs/identity.md).
CLOCK_TOLERANCE_MS = 10_000


@dataclass(slots=True)
class Traces:
    """What the topics hold of a subject.

    Args:
        jobs: as (girl_id, job_id).
        statuses: the partition and key of each status that is the latest of its key.
        requested_ms: by job id, when it was requested last.
        ended_ms: by job id, when its last result was published.
        records: how many records of the subject there are, by topic.
        unread: records that could not be decoded, so that nobody knows whose they are.
    """

    jobs: set[tuple[str, str]] = field(default_factory=set)
    statuses: set[tuple[int, bytes]] = field(default_factory=set)
    requested_ms: dict[str, int] = field(default_factory=dict)
    ended_ms: dict[str, int] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    unread: int = 0

    @property
    def under_way(self) -> set[str]:
        """The jobs that have a request and no result that is as young, for all that two clocks can tell."""
        ended = {job: at + CLOCK_TOLERANCE_MS for job, at in self.ended_ms.items()}
        return {job for job, asked in self.requested_ms.items() if ended.get(job, -1) < asked}


def read_traces(connection: Connection, subject: Subject) -> Traces:
    """Read the requests, the results and the statuses, to their end. Raises CommandError: Kafka does not answer."""
    topics, traces = connection.topics, Traces()
    with Reader(connection, (*topics.requests, topics.completed, topics.failed, topics.status)) as reader:
        for record in reader.read_all():
            if record.value is None:
                traces.statuses.discard((record.partition, record.key or b""))
                continue
            try:
                event = connection.decode(record)
            except UndecodableError:
                traces.unread += 1
                continue
            _note(traces, subject, record, event)
    return traces


def _note(traces: Traces, subject: Subject, record: Record, event: Event) -> None:
    if isinstance(event, GenerationCancellation | WorkerReport):
        return
    is_status = isinstance(event, GenerationStatus)
    place = (record.partition, record.key or b"")
    if not subject.takes(event.job_id, event.girl_id, event.user_id):
        if is_status:
            # Another subject's, under the same id.
            traces.statuses.discard(place)
        return
    traces.jobs.add((event.girl_id, event.job_id))
    traces.records[record.topic] = traces.records.get(record.topic, 0) + 1
    at = record.timestamp_ms or 0
    match event:
        case GenerationRequest():
            traces.requested_ms[event.job_id] = max(at, traces.requested_ms.get(event.job_id, 0))
        case GenerationCompleted() | GenerationFailed():
            traces.ended_ms[event.job_id] = max(at, traces.ended_ms.get(event.job_id, 0))
        case _:
            traces.statuses.add(place)


def cancel_and_wait(connection: Connection, jobs: Iterable[str], timeout_s: float) -> set[str]:
    """Cancel jobs and wait until each has a result; return those that have none at the timeout.

    Raises:
        CommandError: Kafka does not answer.
    """
    waiting = set(jobs)
    if not waiting:
        return waiting
    topics = connection.topics
    with Reader(connection, (topics.completed, topics.failed)) as reader:
        # Before anything is sent, so that no result is missed.
        reader.from_end()
        sender = Sender(connection)
        for job_id in sorted(waiting):
            event = GenerationCancellation(
                job_id=job_id, reason="its subject is forgotten", requested_by=SOURCE, requested_at=utc_now()
            )
            sender.send(topics.cancellations, event)
        sender.flush()
        deadline = time.monotonic() + timeout_s
        while waiting and time.monotonic() < deadline:
            record = reader.poll(POLL_S)
            if record is not None and record.key is not None:
                waiting.discard(record.key.decode("utf-8", "replace"))
    return waiting


def delete_statuses(connection: Connection, statuses: Iterable[tuple[int, bytes]]) -> int:
    """Write a record without a value for each, where the status lies; compaction then removes both.

    Raises:
        CommandError: a record was not acknowledged.
    """
    sender, count = Sender(connection), 0
    for partition, key in sorted(statuses):
        sender.produce(connection.topics.status, key, None, (), partition=partition)
        count += 1
    sender.flush()
    return count
