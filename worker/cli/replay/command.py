"""`replay`: requests that were answered already, or failed, looked at again: counted, verified or published."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from worker.cli.flags import INT
from worker.cli.replay.options import make_selection, parse_replay_id
from worker.cli.submit import Class
from worker.client.connection import connect

_WHAT, _HOW = "Which records", "What is done"


def replay(
    since: Annotated[
        str | None,
        typer.Option(help="From this long ago (90s, 10m, 2h, 1d), a time, or `beginning`.", rich_help_panel=_WHAT),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Likewise. Default: now.", rich_help_panel=_WHAT)] = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="A request topic; may be repeated.", rich_help_panel=_WHAT)
    ] = None,
    lane: Annotated[list[Class] | None, typer.Option(help="May be repeated.", rich_help_panel=_WHAT)] = None,
    partition: Annotated[
        int | None, typer.Option(min=0, max=INT, help="Of those topics.", rich_help_panel=_WHAT)
    ] = None,
    offsets: Annotated[
        str | None,
        typer.Option(metavar="A-B", help="Of that partition of one lane, both taken.", rich_help_panel=_WHAT),
    ] = None,
    job_id: Annotated[list[str] | None, typer.Option(help="May be repeated.", rich_help_panel=_WHAT)] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Jobs with a failed event in the window.", rich_help_panel=_WHAT)
    ] = False,
    error_code: Annotated[
        list[str] | None, typer.Option(help="Likewise, with this code; may be repeated.", rich_help_panel=_WHAT)
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Make the pictures again and compare the pixels.", rich_help_panel=_HOW)
    ] = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="Send the results as new ones.", rich_help_panel=_HOW)
    ] = False,
    replay_id: Annotated[
        str | None, typer.Option(metavar="UUID", help="Of a replay to go on with.", rich_help_panel=_HOW)
    ] = None,
    state: Annotated[Path | None, typer.Option(help="Default: out/replay/UUID.jsonl.", rich_help_panel=_HOW)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON lines: a line per job, the counts last.", rich_help_panel=_HOW)
    ] = False,
) -> None:
    """Look at requests again: without --verify or --publish, only count them.

    Exit code 1: a picture differs and nothing explains it, or a manifest is tampered with or gone. 130: interrupted.
    """
    if verify and publish:
        raise typer.BadParameter("--verify and --publish are two replays")
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
        # After the flags are understood: what follows brings in the worker's parts.
        from worker.cli.replay.run import PUBLISH, VERIFY, Replay, count

        if not (verify or publish):
            if selection is None:
                raise typer.BadParameter(_SAY)
            count(connection, selection, as_json=as_json)
            return
        path = state or Path("out/replay") / f"{own_id}.jsonl"
        if selection is None and not path.exists():
            raise typer.BadParameter(_SAY)
        run = Replay(connection, VERIFY if verify else PUBLISH, own_id, path, as_json=as_json)
        raise typer.Exit(run.run(selection))


_SAY = "say which records: --since, --lane, --partition, --job-id, --failed …; for all of them: --since beginning"
