"""The `status` verb: show the latest status of one job, from the compacted status topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from worker.cli.output import note_console, print_json, print_line, state_text
from worker.cli.results import status_object
from worker.client.connection import Connection, Record, connect
from worker.client.errors import CommandError
from worker.client.reader import Reader
from worker.errors import UndecodableError
from worker.events.dead_letters import resubmission_of
from worker.events.headers import header_text
from worker.events.types import GenerationStatus, timestamp


def status(
    job_id: Annotated[str, typer.Argument(help="The id of the job.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show the latest status of a job, or why its request became a dead letter.

    Exit code 1: neither the status topic nor the dead letters hold anything about
    it.
    """
    with connect() as connection:
        latest = latest_status(connection, job_id)
        letter = dead_letter(connection, job_id) if latest is None else None
    if letter is not None:
        _show(letter, as_json=as_json)
        return
    if latest is None:
        if as_json:
            print_json({"job_id": job_id, "status": "unknown"})
        raise CommandError(f"no status for {job_id}: no worker has taken it, or the topic's retention time has passed")
    answer = status_object(latest) | {"updated_at": latest.updated_at.isoformat(timespec="milliseconds")}
    _show(answer, as_json=as_json)


def _show(answer: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    for name, value in answer.items():
        if value is not None:
            shown = state_text(value) if name == "status" else Text(str(value))
            print_line(Text.assemble((f"{name.replace('_', ' '):<16}", "dim"), shown))


def latest_status(connection: Connection, job_id: str) -> GenerationStatus | None:
    """Read the whole status topic and return the latest status of one job, or None.

    Every partition is read, because producers in other languages may partition keys by another hash.
    """
    key = job_id.encode()
    by_partition: dict[int, GenerationStatus | None] = {}
    with Reader(connection, [connection.topics.status]) as reader, note_console().status("") as note:
        for count, record in enumerate(reader.read_all(), 1):
            if count % 500 == 1:
                note.update(f"{count} events, {reader.ended_count} of {reader.partition_count} partitions read")
            if record.key == key:
                by_partition[record.partition] = _status(connection, record) if record.value else None
    known = [event for event in by_partition.values() if event is not None]
    return max(known, key=lambda event: event.updated_at, default=None)


def dead_letter(connection: Connection, job_id: str) -> dict[str, Any] | None:
    """What is known of the latest dead letter that has this job id as its key or in a header, if there is one."""
    found: Record | None = None
    try:
        with Reader(connection, [connection.topics.dead_letter]) as reader:
            for record in reader.read_all():
                if resubmission_of(record.headers) is not None:
                    continue  # a note that a dead letter was sent again
                if record.key == job_id.encode() or header_text(record.headers, "job-id") == job_id:
                    found = record
    except CommandError:
        return None  # Kafka has just answered, so that it is the topic that is missing
    if found is None:
        return None
    told = {name: header_text(found.headers, f"dlq-{name}") for name in ("topic", "partition", "offset", "error")}
    place = f"{told['topic'] or '?'} {told['partition'] or '?'}/{told['offset'] or '?'}"
    at = None if found.timestamp_ms is None else timestamp(found.timestamp_ms / 1000)
    return {
        "job_id": job_id,
        "status": "dead-letter",
        "error_message": told["error"],
        "record": place,
        "dead_letter": f"{found.topic} {found.partition}/{found.offset}",
        "updated_at": None if at is None else at.isoformat(timespec="milliseconds"),
    }


def _status(connection: Connection, record: Record) -> GenerationStatus:
    try:
        return connection.codec.decode(
            record.value, topic=record.topic, headers=record.headers, expected=GenerationStatus
        )
    except UndecodableError as error:
        raise CommandError(f"{record.topic} {record.partition}/{record.offset}: {error}") from error
