"""Verbs that run until they are stopped: what ends them unexpectedly is in the log, places and all."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import typer

from worker.errors import WorkerError


def exit_with(run: Callable[[], int], died: str) -> None:
    """Run a program and exit with its code.

    Whoever reads the log later needs the places of an unexpected error; the line and the exit code are those of every
    verb.

    Args:
        died: the log's event for an error that is no `WorkerError`.

    Raises:
        typer.Exit: it has ended.
    """
    try:
        code = run()
    except WorkerError:
        raise
    except Exception:
        structlog.get_logger().error(died, exc_info=True)
        raise
    raise typer.Exit(code)
