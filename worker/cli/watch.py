"""The `watch` verb: print results as they are published."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from datetime import datetime
from typing import Annotated

import typer
from rich.text import Text

from worker.cli.decode import to_json
from worker.cli.flags import LONG, between
from worker.cli.output import check_reader, json_line, note_console, state_text
from worker.cli.results import one_line
from worker.cli.submit import LaneName
from worker.cli.watched import Filter, Summary, moment_of
from worker.client.connection import Connection, Record, connect
from worker.client.reader import Reader
from worker.errors import ErrorCode, UndecodableError
from worker.events.headers import Result, job_status
from worker.events.types import GenerationCompleted, GenerationFailed, GenerationStatus

POLL_S = 0.2
_LAST_S = 253_402_300_799.0  # the end of 9999
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


_RECORDS = "Only these jobs"


def watch(
    lane: Annotated[
        list[LaneName] | None,
        typer.Option(metavar="LANE", help="Lane: urgent, high or normal; may be repeated.", rich_help_panel=_RECORDS),
    ] = None,
    job_id: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Id of the job; may be repeated.", rich_help_panel=_RECORDS)
    ] = None,
    girl_id: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Whose picture it is; may be repeated.", rich_help_panel=_RECORDS),
    ] = None,
    user_id: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Id of the user who asked; may be repeated.", rich_help_panel=_RECORDS),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Jobs that ended without a picture.", rich_help_panel=_RECORDS)
    ] = False,
    error_code: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="Jobs that failed as this; may be repeated.", rich_help_panel=_RECORDS),
    ] = None,
    with_status: Annotated[bool, typer.Option("--status", help="Print status events, too.")] = False,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Start from an age (10m, 2h, 1d), a time or `beginning`.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", metavar="N", callback=between(1, LONG), help="Stop after N events.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Print results as they are published: one line a job, with time and lane.

    A terminal also shows a summary that is kept up to date. Results are read as a
    read_committed consumer does, so that nothing of an aborted transaction shows.
    """
    try:
        start_ms = None if since in (None, "beginning") else parse_since(since or "", now=time.time())
        wanted = Filter(
            frozenset(one.value for one in lane or ()),
            frozenset(job_id or ()),
            frozenset(girl_id or ()),
            frozenset(user_id or ()),
            failed or bool(error_code),
            frozenset(_code(text) for text in error_code or ()),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with connect() as connection:
        topics = connection.topics
        names = (topics.completed, topics.failed, *((topics.status,) if with_status else ()))
        with Reader(connection, names, follows=True) as reader:
            if since == "beginning":
                reader.from_beginning()
            elif start_ms is not None:
                reader.since(start_ms)
            else:
                reader.from_end()
            if sys.stderr.isatty():
                note_console().print(f"following {', '.join(names)}; press Ctrl-C to stop", style="dim")
            with Summary(note_console(), time.monotonic()) as summary:
                _follow(connection, reader, wanted, summary, count, as_json=as_json)


def _code(text: str) -> ErrorCode:
    try:
        return ErrorCode(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an error code; the error codes are {', '.join(ErrorCode)}") from None


def parse_since(text: str, *, now: float) -> int:
    """Parse an age such as `10m`, or an ISO 8601 time with a timezone, into milliseconds since the epoch.

    Args:
        now: the current time in seconds since the epoch.

    Raises:
        ValueError: the text is neither.
    """
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip())
    try:
        moment_s = now - float(ago[1]) * _UNITS_S[ago[2]] if ago is not None else _timestamp(text)
    except OverflowError:
        moment_s = -math.inf
    # Kafka takes some negative times for "the end" and "the beginning".
    if not 0 <= moment_s <= _LAST_S:
        raise ValueError(f"{text!r} is before 1970 or after 9999")
    return int(moment_s * 1000)


def _timestamp(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a time nor an age such as 90s, 10m, 2h, 1d") from None
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no timezone: append Z for UTC")
    return moment.timestamp()


def _follow(
    connection: Connection, reader: Reader, wanted: Filter, summary: Summary, count: int | None, *, as_json: bool
) -> None:
    shown = 0
    while count is None or shown < count:
        record = reader.poll(POLL_S)
        check_reader()
        event = None if record is None else _event(connection, record)
        if record is not None and event is not None and wanted.takes(event):
            summary.add(event)
            _print(summary, record, event, as_json=as_json)
            shown += 1
        summary.refresh(time.monotonic())


def _event(connection: Connection, record: Record) -> Result | None:
    try:
        event = connection.decode(record) if record.value else None
    except UndecodableError as error:
        print(f"{record.topic} {record.partition}/{record.offset}: {error}", file=sys.stderr, flush=True)
        return None
    return event if isinstance(event, GenerationCompleted | GenerationFailed | GenerationStatus) else None


def _print(summary: Summary, record: Record, event: Result, *, as_json: bool) -> None:
    if as_json:
        summary.print_line(json_line({"topic": record.topic} | json.loads(to_json(event))))
        return
    state = job_status(event).value
    rest = one_line(event)
    summary.print_line(
        Text.assemble(
            (f"{moment_of(event):%Y-%m-%dT%H:%M:%SZ} ", "dim"),
            f"{event.priority.value:<8}",
            state_text(f"{state:<10}"),
            (event.job_id, "bold"),
            f" {rest}" if rest else "",
        )
    )
