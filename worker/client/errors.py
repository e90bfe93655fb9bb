"""The error that ends a verb with one line on stderr and exit code 1."""

from __future__ import annotations

from worker.errors import WorkerError


class CommandError(WorkerError):
    """A verb cannot do what was asked; the message says why."""
