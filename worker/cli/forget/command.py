"""The `forget` verb."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from worker.cli.flags import LONG, YEAR_S, between
from worker.cli.forget.run import Forget
from worker.cli.forget.subject import Kind, Subject
from worker.cli.output import note_console, print_json
from worker.client.connection import connect
from worker.delivery.keys import object_keys
from worker.delivery.upload import PictureStore

_REFERENCE_CHARS = 200


def forget(
    job: Annotated[str | None, typer.Option("--job", metavar="JOB_ID", help="Forget this job.")] = None,
    girl: Annotated[
        str | None,
        typer.Option("--girl", metavar="GIRL_ID", help="Forget all jobs of this girl; with --job, only that one."),
    ] = None,
    user: Annotated[
        int | None,
        typer.Option("--user", metavar="USER_ID", callback=between(-LONG, LONG), help="Forget all jobs of this user."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be removed, and remove nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            callback=between(0.0, YEAR_S),
            help="Wait this long for cancelled jobs to end.",
        ),
    ] = 60.0,
    reference: Annotated[str | None, typer.Option(help="Text for the record, such as the number of a ticket.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Remove pictures, thumbnails, manifests, checkpoints and statuses, and say what stays.

    Jobs that are under way are cancelled first. It can be run again at any time.

    Exit code 1: a job is still under way, or a manifest cannot be read; the rest was removed.
    """
    subject = _subject(job, girl, user)
    if reference is not None and (len(reference) > _REFERENCE_CHARS or not reference.isprintable()):
        raise typer.BadParameter(f"--reference is one line of at most {_REFERENCE_CHARS} characters")
    with connect() as connection:
        store = PictureStore.from_settings(connection.settings)
        store.require_bucket()
        run = Forget(connection, store.objects, subject, reference)
        with note_console().status(f"looking for {subject}"):
            counts = run.look()
        if dry_run:
            _tell(subject, counts, run, as_json=as_json, what="would be removed")
            return
        _ask(subject, counts, yes)
        with note_console().status(f"removing {subject}"):
            removed, running, record = run.remove(timeout)
        _tell(subject, removed, run, as_json=as_json, what="removed", record=record, running=running)
    if running:
        names = ", ".join(sorted(running)[:3])
        print(
            f"{len(running)} job(s) had not ended after {timeout:g} s, such as {names}: run it again", file=sys.stderr
        )
    raise typer.Exit(int(bool(running or run.found.unread)))


def _subject(job: str | None, girl: str | None, user: int | None) -> Subject:
    if (job is None and girl is None) == (user is None):
        raise typer.BadParameter("say what to forget: --job, --girl, or --user alone")
    try:
        object_keys(girl or "girl", job or "job", "jpeg")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    kind = Kind.USER if user is not None else Kind.GIRL if job is None else Kind.JOB
    return Subject(kind=kind, job_id=job, girl_id=girl, user_id=user)


def _ask(subject: Subject, counts: Mapping[str, int], yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody can be asked here: look with --dry-run, then say --yes")
    what = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count) or "nothing that is known of"
    typer.confirm(f"Remove {what} of {subject}, for ever?", abort=True, err=True)


def _tell(
    subject: Subject,
    counts: Mapping[str, int],
    run: Forget,
    *,
    as_json: bool,
    what: str,
    record: str | None = None,
    running: set[str] | None = None,
) -> None:
    shown = dict(sorted(counts.items()))
    stays = list(run.out_of_reach())
    under_way = sorted(run.traces.under_way if running is None else running)
    if as_json:
        told = {"subject": str(subject), "state": what.replace(" ", "_"), "counts": shown, "under_way": under_way}
        print_json(told | {"record": record, "out_of_reach": stays, "cdn_paths": run.cdn_paths()})
        return
    print(f"{what} of {subject}:")
    for name, count in shown.items():
        print(f"  {count:>8} {name}")
    if record is None and under_way:
        print(f"  {len(under_way):>8} job(s) under way, which would be cancelled first")
    if record is not None:
        print(f"record: {record}")
    print("out of reach:")
    for sentence in stays:
        print(f"  - {sentence}")
