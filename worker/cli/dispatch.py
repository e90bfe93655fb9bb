"""`dispatch`: one queue for a fleet of workers with INPUT=work."""

from __future__ import annotations

from worker.cli.long_running import exit_with
from worker.settings import load_settings
from worker.telemetry import logs


def dispatch() -> None:
    """Pass each request on to a worker that has room for it, until stopped.

    The workers run with INPUT=work; `topics create --dispatch` makes the topics. Two
    or more dispatchers share the work, each with its own WORKER_ID. Exit codes:
    0 stopped, 1 a crash, 2 wrong settings or topics.
    """
    settings = load_settings()
    logs.configure(settings.log_level, settings.log_format)
    from worker.dispatch.start import run

    exit_with(lambda: run(settings), died="dispatcher_died")
