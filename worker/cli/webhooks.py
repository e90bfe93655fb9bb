"""`webhooks`: a signed HTTP request for each result."""

from __future__ import annotations

from worker.cli.long_running import exit_with
from worker.settings import load_settings
from worker.telemetry import logs


def webhooks() -> None:
    """Send each completed and failed event to WEBHOOK_URL as a signed HTTP POST, until stopped.

    SIGTERM or Ctrl-C ends it after the requests that are under way. Exit codes: 0 stopped, 1 Kafka cannot be read,
    2 wrong settings.
    """
    settings = load_settings()
    logs.configure(settings.log_level, settings.log_format)
    from worker.webhooks.start import run

    exit_with(lambda: run(settings), died="webhooks_died")
