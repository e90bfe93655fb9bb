"""The command line: one module per verb, imported only when that verb is called."""

from __future__ import annotations

from typing import Annotated

import typer

from worker import __version__
from worker.cli.lazy import VerbGroup


class Verbs(VerbGroup):
    """Each verb, mapped to its "module:attribute" and to its line in the list of commands."""

    verbs = {  # noqa: RUF012 - a table, never changed
        "run": ("worker.cli.run:run", "Run a worker: consume requests and make pictures until stopped."),
        "submit": ("worker.cli.submit:submit", "Send one request from flags, or many as JSON lines from stdin."),
        "status": ("worker.cli.status:status", "Show the latest status of a job."),
        "watch": ("worker.cli.watch:watch", "Print results as they are published."),
        "gateway": ("worker.cli.gateway:gateway", "Serve HTTP: requests, states of jobs, events, and a page."),
        "dispatch": ("worker.cli.dispatch:dispatch", "Pass requests on to workers that have room: one queue for all."),
        "cancel": ("worker.cli.cancel:cancel", "Ask every worker to stop a job."),
        "get": ("worker.cli.get:get", "Download the picture and the thumbnail of a job."),
        "forget": ("worker.cli.forget.command:forget", "Remove all that is stored of a job, a girl or a user."),
        "replay": ("worker.cli.replay.command:replay", "Count, verify or publish again the results of past requests."),
        "dead-letters": (
            "worker.cli.dead_letters.command:app",
            "List, show and resubmit records that were no requests.",
        ),
        "decode": ("worker.cli.decode:decode", "Convert the output of kcat -f '%R%s' to JSON lines."),
        "report": ("worker.cli.report:report", "Count pictures, failures, waits and costs in a time window."),
        "doctor": ("worker.cli.doctor:doctor", "Look at all that a worker needs, and say what is wrong."),
        "topics": ("worker.cli.topics:app", "Create or describe the worker's Kafka topics."),
        "webhooks": ("worker.cli.webhooks:webhooks", "Send each result to a URL as a signed HTTP request."),
        "models": ("worker.cli.models:app", "Download the configured models, or train a LoRA."),
        "profiles": ("worker.cli.profiles:app", "Check profiles, or preview a request composed with one."),
    }
    developer_verbs = {  # noqa: RUF012
        "bench": ("devtools.cli.bench:app", "Benchmark scheduling, reproducibility and picture quality."),
        "demo": ("devtools.cli.demo:demo", "Make twelve pictures locally: no Kafka, GPU or download needed."),
        "rehearsal": ("devtools.cli.rehearsal:rehearsal", "Draw with the real worker on a full-size SDXL."),
    }


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
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
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A Kafka worker that turns request events into pictures with SDXL.

    Settings are read from environment variables and from .env; see the README.
    """
