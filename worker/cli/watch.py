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

from worker.cli.decode import to_json
from worker.cli.flags import LONG, between
from worker.cli.output import check_reader, note_console, print_json, print_line, result_line
from worker.cli.results import one_line
from worker.client.connection import Connection, Record, connect
from worker.client.reader import Reader
from worker.errors import UndecodableError
from worker.events.headers import job_status
from worker.events.types import GenerationCompleted, GenerationFailed, GenerationStatus

POLL_S = 0.2
_LAST_S = 253_402_300_799.0  # the end of 9999
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def watch(
    with_status: Annotated[bool, typer.Option("--status", help="Print status events too.")] = False,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Start from an age (10m, 2h, 1d), a time or `beginning`.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", metavar="N", callback=between(1, LONG), help="Stop after N events.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Print completed and failed events as they are published, read as a read_committed consumer."""
    try:
        start_ms = None if since in (None, "beginning") else parse_since(since or "", now=time.time())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with connect() as connection:
        topics = connection.topics
        wanted = (topics.completed, topics.failed, *((topics.status,) if with_status else ()))
        with Reader(connection, wanted, follows=True) as reader:
            if since == "beginning":
                reader.from_beginning()
            elif start_ms is not None:
                reader.since(start_ms)
            else:
                reader.from_end()
            if sys.stderr.isatty():
                note_console().print(f"following {', '.join(wanted)}; press Ctrl-C to stop", style="dim")
            _follow(connection, reader, count, as_json=as_json)


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


def _follow(connection: Connection, reader: Reader, count: int | None, *, as_json: bool) -> None:
    shown = 0
    while count is None or shown < count:
        record = reader.poll(POLL_S)
        check_reader()
        if record is not None:
            shown += _show(connection, record, as_json=as_json)


def _show(connection: Connection, record: Record, *, as_json: bool) -> bool:
    try:
        event = connection.decode(record) if record.value else None
    except UndecodableError as error:
        print(f"{record.topic} {record.partition}/{record.offset}: {error}", file=sys.stderr, flush=True)
        return False
    if not isinstance(event, GenerationCompleted | GenerationFailed | GenerationStatus):
        return False
    if as_json:
        print_json({"topic": record.topic} | json.loads(to_json(event)))
    else:
        print_line(result_line(job_status(event).value, event.job_id, one_line(event)))
    return True
