"""`run`: the worker itself."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from worker import startup
from worker.cli.long_running import exit_with
from worker.settings import load_settings
from worker.telemetry import logs


def run(
    gpus: Annotated[
        str | None,
        typer.Option(
            "--gpus", help="Run a worker on each card: all, or numbers or UUIDs, comma separated (docs/many-gpus.md)."
        ),
    ] = None,
    pull: Annotated[
        bool, typer.Option("--pull", help="Download the models first, where they are not here yet; then offline.")
    ] = False,
) -> None:
    """Consume requests and make pictures until stopped.

    SIGTERM or Ctrl-C drains: running jobs are finished, nothing new is begun. A
    second one ends the process at once. Either way, nothing is lost.

    Exit code 2: the worker cannot start; the last line says what to change.
    """
    settings = load_settings()
    logs.configure(settings.log_level, settings.log_format)
    # The worker's parts take seconds to import: wrong settings are told before that.
    startup.check_settings(settings)
    if pull:
        pull_then_run(sys.argv)
    if gpus is not None:
        from worker.gpus.start import run as run_on_cards

        raise typer.Exit(run_on_cards(settings, gpus))
    from worker.app import run as run_worker

    exit_with(lambda: run_worker(settings), died="worker_died")


def pull_then_run(arguments: Sequence[str]) -> NoReturn:
    """Download what is missing, then become the worker, which asks the hub nothing.

    For places with one command and no second container, such as rented GPUs. The hub's library reads HF_HUB_OFFLINE
    when it is imported, so the process is replaced; it keeps its id, which the container's signals go to.

    Args:
        arguments: of this process.

    Raises:
        ModelLoadError: a model cannot be had.
    """
    # The first process of a container ignores signals that it has no handler for. What is half written goes on later.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_pull)
    from worker.cli.models import pull

    pull(full=False, as_json=False)
    words = [word for word in arguments[1:] if word != "--pull"]
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "worker", *words])


def _end_pull(number: int, _frame: FrameType | None) -> None:
    os._exit(0 if number == signal.SIGTERM else 128 + number)
