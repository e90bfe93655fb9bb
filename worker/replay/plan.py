"""Plan a replay: find the selected jobs and the standing of each. Reads Kafka and S3, writes nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from worker.client.connection import Connection, Record
from worker.client.reader import Reader
from worker.delivery.digest import request_digest
from worker.delivery.keys import object_keys
from worker.delivery.stored_manifest import load_manifest
from worker.delivery.upload import PictureStore
from worker.errors import ErrorCode, RequestRejected, UndecodableError
from worker.events.headers import header_text, passed_through
from worker.events.types import GenerationCompleted, GenerationFailed, GenerationRequest
from worker.intake.admit import AdmissionRules
from worker.intake.times import plausible
from worker.job import Job, Lane, Origin
from worker.replay.compare import agrees, flaws
from worker.replay.pool import ahead, patiently
from worker.replay.selection import History, Requested, Selection, admit_again, by_job

# A replay reads outside the consumer group, so its records have no assignment epoch.
_NO_EPOCH = 0


class Standing(StrEnum):
    """The state of a job before the replay."""

    COMPLETED = "completed"
    TAMPERED = "tampered"
    MISSING = "missing"
    FAILED = "failed"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Item:
    """A job to replay; `code` is set if it failed, `flaws` if its manifest was tampered with."""

    requested: Requested
    standing: Standing
    manifest: dict[str, Any] | None = None
    code: ErrorCode | None = None
    flaws: tuple[str, ...] = ()

    @property
    def job_id(self) -> str:
        return self.requested.job_id

    @property
    def label(self) -> str:
        """The standing, with the error code if the job failed."""
        return self.standing.value if self.code is None else f"{self.standing.value}: {self.code.value}"


@dataclass(slots=True)
class Plan:
    """Request records grouped by job, and the history of these jobs in the result topics.

    Args:
        cancelled: ids of jobs that the selection would name, and that are left out since they were cancelled.
        repeats: further records of selected jobs.
        undecodable: records that the selection names and that hold no request.
        undated: requests without a time that can be true, which a time window leaves out.
    """

    jobs: list[list[Requested]]
    history: History
    cancelled: set[str] = field(default_factory=set)
    repeats: int = 0
    undecodable: int = 0
    undated: int = 0
    forgotten: int = 0
    counts: Counter[tuple[Lane, str]] = field(default_factory=Counter)


def read_plan(connection: Connection, selection: Selection, replay_id: str | None) -> Plan:
    """Read the result topics, then the request topics, and group the selected requests by job."""
    history = read_history(connection, selection, replay_id)
    plan = Plan([], history)
    plan.jobs = by_job(_requests(connection, selection, plan))
    plan.repeats = sum(len(records) - 1 for records in plan.jobs)
    return plan


def read_history(
    connection: Connection, selection: Selection, replay_id: str | None, since_ms: int | None = None
) -> History:
    """Read all results from the start of the selection's window, or from `since_ms`, until now."""
    history = History(selection, replay_id)
    topics = connection.topics
    with Reader(connection, (topics.completed, topics.failed)) as reader:
        since_ms = selection.since_ms if since_ms is None else since_ms
        for record in _since(reader, since_ms):
            try:
                event = connection.decode(record)
            except UndecodableError:
                continue
            if isinstance(event, GenerationCompleted | GenerationFailed):
                history.note(event, record.timestamp_ms)
    return history


def _requests(connection: Connection, selection: Selection, plan: Plan) -> Iterator[Requested]:
    lanes = {connection.topics.requests[lane]: lane for lane in selection.lanes}
    with Reader(connection, tuple(lanes)) as reader:
        for record in _records(reader, selection):
            recorded_ms = _plausible_ms(record.timestamp_ms)
            if recorded_ms is not None and not selection.covers(record.partition, record.offset, recorded_ms):
                continue
            try:
                request = connection.codec.decode(
                    record.value, topic=record.topic, headers=record.headers, expected=GenerationRequest
                )
            except UndecodableError:
                plan.undecodable += _names_undecodable(selection, record, recorded_ms)
                continue
            if recorded_ms is None:
                requested_ms = _told_ms(record, request)
                plan.undated += selection.has_window and requested_ms is None
                if not selection.covers(record.partition, record.offset, requested_ms):
                    continue
            if not selection.names(request.job_id, plan.history):
                continue
            if selection.leaves_out_cancelled(request.job_id, plan.history):
                plan.cancelled.add(request.job_id)
                continue
            yield _requested(record, request, lanes[record.topic])


def _names_undecodable(selection: Selection, record: Record, recorded_ms: int | None) -> bool:
    """Whether a selection names a record that holds no request: by its place, its time and its key."""
    if selection.failed:
        return False  # a record that is no request never failed as a job
    if selection.job_ids and (record.key or b"").decode("utf-8", "replace") not in selection.job_ids:
        return False
    return selection.covers(record.partition, record.offset, recorded_ms)


def _records(reader: Reader, selection: Selection) -> Iterator[Record]:
    if selection.partition is None:
        # The window of a failed event does not bound the time of its request.
        yield from _since(reader, None if selection.failed else selection.since_ms)
        return
    first, last = selection.offsets or (None, None)
    reader.only(selection.partition, first)
    for record in reader.to_end():
        if last is not None and record.offset > last:
            return
        yield record


def _since(reader: Reader, since_ms: int | None) -> Iterator[Record]:
    if since_ms is None:
        reader.from_beginning()
    else:
        # A partition without a record of that time may still hold records whose time is wrong.
        reader.since(since_ms, else_beginning=True)
    return reader.to_end()


def _plausible_ms(moment_ms: int | None) -> int | None:
    """A record's timestamp, or None where it cannot be true (-1, 1970, a clock far ahead)."""
    return moment_ms if moment_ms is not None and plausible(moment_ms / 1000, time.time()) is not None else None


def _told_ms(record: Record, request: GenerationRequest) -> int | None:
    """When a request was made, by what it tells itself; None where it tells nothing that can be true."""
    told = [] if request.requested_at is None else [request.requested_at]
    with suppress(ValueError):  # there is no such header, or no time in it
        told.append(datetime.fromisoformat(header_text(record.headers, "ce_time") or ""))
    times = [_plausible_ms(int(moment.timestamp() * 1000)) for moment in told if moment.tzinfo is not None]
    return next((moment for moment in times if moment is not None), None)


def _requested(record: Record, request: GenerationRequest, lane: Lane) -> Requested:
    origin = Origin(record.topic, record.partition, record.offset, _NO_EPOCH)
    recorded_ms = _plausible_ms(record.timestamp_ms)
    recorded_at = time.time() if recorded_ms is None else recorded_ms / 1000
    return Requested(request, lane, origin, recorded_at, passed_through(record.headers))


def items(plan: Plan, store: PictureStore, rules: AdmissionRules, pool: ThreadPoolExecutor) -> Iterator[Item]:
    """Yield each job with its manifest, in order; a few manifests are read ahead.

    Raises:
        StoreUnavailable: S3 did not answer for a while.
    """
    return ahead(pool, lambda records: _item(records, plan.history, store, rules), plan.jobs)


def _item(records: list[Requested], history: History, store: PictureStore, rules: AdmissionRules) -> Item:
    # Of several requests with one id, take the one whose picture is stored, or the last one if there is no picture.
    requested, manifest, unreadable = records[-1], None, ""
    for candidate in records:
        found, problem = _manifest(candidate.request, store)
        if found is not None and found["request_digest"] == request_digest(candidate.request):
            requested, manifest, unreadable = candidate, found, ""
            break
        if candidate is requested:
            manifest, unreadable = found, problem
    code = history.failed.get(requested.job_id)
    girl_id = requested.request.girl_id
    announced = [event for event in history.completed.get(requested.job_id, []) if event.girl_id == girl_id]
    if unreadable:
        return Item(requested, Standing.TAMPERED, flaws=(unreadable,))
    if manifest is None:
        if announced:
            return Item(requested, Standing.MISSING)
        return Item(requested, Standing.OPEN if code is None else Standing.FAILED, code=code)
    is_anothers = manifest["request_digest"] != request_digest(requested.request)
    if code is not None and is_anothers and (not announced or any(agrees(manifest, event) for event in announced)):
        # The request failed because its id belongs to another request; the stored picture is that request's.
        return Item(requested, Standing.FAILED, code=code)
    found_flaws = flaws(manifest, requested.request, _admitted(requested, rules), announced)
    standing = Standing.TAMPERED if found_flaws else Standing.COMPLETED
    return Item(requested, standing, manifest, flaws=tuple(found_flaws))


def _manifest(request: GenerationRequest, store: PictureStore) -> tuple[dict[str, Any] | None, str]:
    """Return the stored manifest, or None and the reason why it cannot be read ("" if there is no manifest)."""
    try:
        key = object_keys(request.girl_id, request.job_id, request.output_format.value).manifest
    except ValueError:
        return None, ""
    data = patiently(lambda: store.fetch(key))
    if data is None:
        return None, ""
    try:
        return load_manifest(data), ""
    except ValueError as error:
        return None, str(error)


def _admitted(requested: Requested, rules: AdmissionRules) -> Job | None:
    try:
        return admit_again(requested, rules, time.time())
    except RequestRejected:
        return None
