"""The `replay` verb: count, verify or publish again the results of past requests."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from worker.cli.flags import INT, between
from worker.cli.replay.options import make_selection, parse_replay_id
from worker.cli.submit import LaneName
from worker.client.connection import connect

_RECORDS, _ACTION = "Selected records", "Action"


def replay(
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Start of the window: an age (90s, 10m, 2h, 1d), an ISO 8601 time or `beginning`.",
            rich_help_panel=_RECORDS,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="End of the window: an age or an ISO 8601 time (default: now).",
            rich_help_panel=_RECORDS,
        ),
    ] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(metavar="TOPIC", help="Only this request topic; may be repeated.", rich_help_panel=_RECORDS),
    ] = None,
    lane: Annotated[
        list[LaneName] | None,
        typer.Option(
            metavar="LANE",
            help="Only this lane (urgent, high or normal); may be repeated.",
            rich_help_panel=_RECORDS,
        ),
    ] = None,
    partition: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            callback=between(0, INT),
            help="Only this partition of the selected topics.",
            rich_help_panel=_RECORDS,
        ),
    ] = None,
    offsets: Annotated[
        str | None,
        typer.Option(
            metavar="A-B",
            help="Only offsets A to B, both included; needs one --partition of one lane.",
            rich_help_panel=_RECORDS,
        ),
    ] = None,
    job_id: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Only this job; may be repeated.", rich_help_panel=_RECORDS),
    ] = None,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Only jobs with a failed event in the window.", rich_help_panel=_RECORDS),
    ] = False,
    error_code: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE", help="Only jobs that failed with this code; may be repeated.", rich_help_panel=_RECORDS
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Make the pictures again and compare the pixels.", rich_help_panel=_ACTION)
    ] = False,
    publish: Annotated[
        bool,
        typer.Option(
            "--publish", help="Publish the results again, marked with the replay's id.", rich_help_panel=_ACTION
        ),
    ] = False,
    replay_id: Annotated[
        str | None,
        typer.Option(metavar="UUID", help="Continue the interrupted replay with this id.", rich_help_panel=_ACTION),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File that records progress (default: out/replay/UUID.jsonl).",
            rich_help_panel=_ACTION,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object per job, then the counts.", rich_help_panel=_ACTION),
    ] = False,
) -> None:
    """Replay past requests. Without --verify or --publish, only count them.

    Exit code 1: a picture differs for no known reason, or a manifest was tampered
    with or is missing. Exit code 130: the replay was interrupted.
    """
    if verify and publish:
        raise typer.BadParameter("--verify and --publish cannot be combined")
    with connect() as connection:
        try:
            selection = make_selection(
                topics=connection.topics,
                since=since,
                until=until,
                names=topic or (),
                lanes=[one.value for one in lane or ()],
                partition=partition,
                offsets=offsets,
                job_ids=job_id or (),
                failed=failed,
                error_codes=error_code or (),
                now=time.time(),
            )
            own_id = parse_replay_id(replay_id)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        # Imported only once the flags are known to be valid, because it imports most of the worker.
        from worker.cli.replay.run import PUBLISH, VERIFY, Replay, count

        if not (verify or publish):
            if selection is None:
                raise typer.BadParameter(_NO_SELECTION)
            count(connection, selection, as_json=as_json)
            return
        path = state or Path("out/replay") / f"{own_id}.jsonl"
        if selection is None and not path.exists():
            raise typer.BadParameter(_NO_SELECTION)
        run = Replay(connection, VERIFY if verify else PUBLISH, own_id, path, as_json=as_json)
        raise typer.Exit(run.run(selection))


_NO_SELECTION = (
    "select records with --since, --lane, --partition, --job-id, --failed …, or all of them with --since beginning"
)
