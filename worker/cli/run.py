"""`run`: the worker itself."""

from __future__ import annotations

from typing import Annotated

import structlog
import typer

from worker import startup
from worker.errors import WorkerError
from worker.settings import load_settings
from worker.telemetry import logs


def run(
    gpus: Annotated[
        str | None,
        typer.Option(
            "--gpus", help="Run a worker on each card: all, or numbers or UUIDs, comma separated (docs/many-gpus.md)."
        ),
    ] = None,
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
    if gpus is not None:
        from worker.gpus.start import run as run_on_cards

        raise typer.Exit(run_on_cards(settings, gpus))
    from worker.app import run as run_worker

    try:
        code = run_worker(settings)
    except WorkerError:
        raise
    except Exception:
        # Whoever reads the log later needs the places; the line and the exit code are those of every verb.
        structlog.get_logger().error("worker_died", exc_info=True)
        raise
    raise typer.Exit(code)
