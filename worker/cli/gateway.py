"""The `gateway` verb: the HTTP interface on top of the topics."""

from __future__ import annotations

import typer


def gateway() -> None:
    """Serve the HTTP interface: requests, states of jobs, event streams and a page to try a prompt.

    It holds no job; settings begin with GATEWAY_. Without GATEWAY_TOKENS it serves this machine only. Exit code 2: a
    setting is wrong, or the port is taken; 0 after SIGTERM or Ctrl-C.
    """
    from worker.gateway.server import run
    from worker.settings import load_settings
    from worker.telemetry import logs

    settings = load_settings()
    logs.configure(settings.log_level, settings.log_format)
    raise typer.Exit(run())
