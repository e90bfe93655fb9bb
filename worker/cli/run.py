"""`run`: the worker itself."""

from __future__ import annotations

import typer

from worker.settings import load_settings


def run() -> None:
    """Consume requests and make pictures until stopped: SIGTERM or Ctrl-C drains, a second one ends at once."""
    settings = load_settings()
    # torch and diffusers take seconds to import: wrong settings are told before that.
    from worker.app import run as run_worker

    raise typer.Exit(run_worker(settings))
