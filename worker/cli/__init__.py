"""The command line: one verb per file, imported only when it is the one that was asked for."""

from __future__ import annotations

from typing import Annotated

import typer

from worker import __version__
from worker.cli.lazy import VerbGroup


class Verbs(VerbGroup):
    """Every verb: where it is, and its line in the list."""

    verbs = {  # noqa: RUF012 - a table, never changed
        "run": ("worker.cli.run:run", "Consume requests and make pictures until stopped."),
        "submit": ("worker.cli.submit:submit", "Send one request from flags, or JSON lines from stdin."),
        "status": ("worker.cli.status:status", "Tell the latest status of a job."),
        "watch": ("worker.cli.watch:watch", "Follow the results as they come."),
        "cancel": ("worker.cli.cancel:cancel", "Ask every worker to stop a job."),
        "replay": ("worker.cli.replay.command:replay", "Look at old requests again: count, verify or publish them."),
        "decode": ("worker.cli.decode:decode", "Turn the output of kcat -f '%R%s' into JSON lines."),
        "topics": ("worker.cli.topics:app", "Create or describe the topics."),
        "models": ("worker.cli.models:app", "Fetch the configured models, or train a LoRA."),
        "profiles": ("worker.cli.profiles:app", "Check profiles, or see what one makes of a request."),
    }
    developer_verbs = {  # noqa: RUF012
        "bench": ("devtools.cli.bench:app", "Measure scheduling and equality, and mark the pictures."),
        "demo": ("devtools.cli.demo:demo", "Make twelve pictures here, without Kafka, GPU or download."),
    }


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sdxl-worker {__version__}")
        raise typer.Exit


@app.callback()
def top(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A Kafka worker that turns request events into pictures with SDXL.

    Settings come from the environment and from .env; see the README.
    """
