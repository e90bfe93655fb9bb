"""The `dead-letters list`, `show` and `resubmit` verbs."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from worker.cli.dead_letters.correct import Correction, parse_edited, parse_given
from worker.cli.dead_letters.describe import fields_text, full_lines, full_object, summary_line, summary_object
from worker.cli.dead_letters.letters import (
    Filter,
    kind_of,
    letter_at,
    letters,
    original,
    parse_place,
    read_content,
    resubmitted,
    state_of,
)
from worker.cli.dead_letters.resubmit import Resubmit
from worker.cli.output import print_json, print_line
from worker.cli.submit import LaneName
from worker.cli.watch import parse_since
from worker.client.connection import connect
from worker.client.errors import CommandError

T = TypeVar("T")

Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Only letters whose reason holds this text.")]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only letters from then on: an age such as 2h, or an ISO 8601 time.")
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only letters before then.")]
Topic = Annotated[str | None, typer.Option(help="Only records that were on this topic.")]
Key = Annotated[str | None, typer.Option(metavar="JOB_ID", help="Only records with this key.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Look at records that were no requests, and send them again."
)


@app.command("list")
def list_letters(
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    topic: Topic = None,
    key: Key = None,
    pending: Annotated[bool, typer.Option("--pending", help="Only letters that were not sent again.")] = False,
    by_reason: Annotated[
        bool, typer.Option("--by-reason", help="Count the letters by reason in place of listing them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List dead letters: place, time, original topic and place, key, reason."""
    wanted = _filter(reason, since, until, topic, key)
    counts: Counter[str] = Counter()
    with connect() as connection:
        sent = resubmitted(connection)
        for letter in letters(connection, wanted):
            where = state_of(letter, sent)
            if pending and where is not None:
                continue
            if by_reason:
                counts[kind_of(letter.error)] += 1
            elif as_json:
                print_json(summary_object(letter, where))
            else:
                print_line(summary_line(letter, where))
    for kind, count in counts.most_common():
        if as_json:
            print_json({"reason": kind, "count": count})
        else:
            print(f"{count:>8} {kind}")


@app.command()
def show(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="Where the letter lies: PARTITION/OFFSET.")],
    only_fields: Annotated[
        bool, typer.Option("--fields", help="Print only the fields, as JSON to edit for resubmit --edited.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: its headers, what can be read of it, and its bytes."""
    at = _parsed(parse_place, place)
    with connect() as connection:
        letter = letter_at(connection, *at)
        content = original(connection, letter)
        reading = read_content(connection, letter, content)
        if only_fields:
            if not reading.fields:
                raise CommandError(f"no field of it can be read: {reading.error}")
            print(fields_text(reading))
            return
        where = state_of(letter, resubmitted(connection))
        if as_json:
            print_json(full_object(letter, where, content, reading))
            return
        for line in full_lines(letter, where, content, reading):
            print_line(line)


@app.command()
def resubmit(
    places: Annotated[
        list[str] | None, typer.Argument(metavar="[PLACE]...", help="Letters to send again: PARTITION/OFFSET.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Send all letters that the filters take.")] = False,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    topic: Topic = None,
    key: Key = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Give a field this value; may be repeated."),
    ] = None,
    unset: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="Leave this field out; may be repeated.")
    ] = None,
    edited: Annotated[
        Path | None,
        typer.Option(metavar="FILE", allow_dash=True, help="Send the request in this JSON file (-: stdin) instead."),
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Give fields that cannot be read their defaults.")] = False,
    lane: Annotated[LaneName | None, typer.Option(help="Send to this lane (default: where it came from).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters again, unchanged or corrected; none is ever sent twice.

    Unchanged letters are only sent if they can be read here and now, such as after a schema was registered.

    Exit code 1: a letter could not be sent; the others were.
    """
    wanted = _filter(reason, since, until, topic, key)
    chosen = [_parsed(parse_place, text) for text in dict.fromkeys(places or ())]
    if bool(chosen) == everything:
        raise typer.BadParameter("name letters as PARTITION/OFFSET, or take --all of those that the filters take")
    if chosen and wanted != Filter():
        raise typer.BadParameter("filters choose among --all; letters that are named are taken as they are")
    if edited is not None and len(chosen) != 1:
        raise typer.BadParameter("--edited replaces one letter: name exactly one")
    correction = Correction(
        given=_parsed(parse_given, given or []),
        unset=tuple(unset or ()),
        edited=None if edited is None else _parsed(parse_edited, _text(edited)),
        partial=partial,
    )
    with connect() as connection:
        run = Resubmit(
            connection, correction, lane=None if lane is None else lane.value, dry_run=dry_run, as_json=as_json
        )
        named = (letter_at(connection, *place) for place in chosen)
        raise typer.Exit(run.run(named if chosen else letters(connection, wanted)))


def _filter(reason: str | None, since: str | None, until: str | None, topic: str | None, key: str | None) -> Filter:
    now = time.time()

    def moment(text: str) -> int:
        return parse_since(text, now=now)

    return Filter(
        reason=reason,
        since_ms=None if since is None else _parsed(moment, since),
        until_ms=None if until is None else _parsed(moment, until),
        topic=topic,
        key=key,
    )


def _parsed(parse: Callable[..., T], given: object) -> T:
    try:
        return parse(given)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _text(path: Path) -> str:
    data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{path} is not UTF-8 (byte {error.start})") from None
