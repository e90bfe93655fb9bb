"""`run`: the worker itself."""

from __future__ import annotations

import structlog
import typer

from worker import startup
from worker.errors import WorkerError
from worker.settings import load_settings
from worker.telemetry import logs


def run() -> None:
    """Consume requests and make pictures until stopped.

    SIGTERM or Ctrl-C drains: running jobs are finished, nothing new is begun. A
    second one ends the process at once. Either way, nothing is lost.

    Exit code 2: the worker cannot start; the last line says what to change.
    """
    settings = load_settings()
    logs.configure(settings.log_level, settings.log_format)
    # The worker's parts take seconds to import: wrong settings are told before that.
    startup.check_settings(settings)
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
