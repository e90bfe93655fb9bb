"""Checks that misbehave, to be run in processes of their own."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from worker.doctor.finding import Finding, ok
from worker.settings import Settings


def fine(settings: Settings) -> Iterator[Finding]:
    """Tells one setting, and what a library prints meanwhile."""
    print("a library says hello", flush=True)
    os.write(1, b'{"level": "ok"}\n')
    yield ok("fine", f"{settings.slots} slots")


def silent(_settings: Settings) -> Iterator[Finding]:
    """Tells nothing."""
    yield from ()


def hangs(_settings: Settings) -> Iterator[Finding]:
    """Finds something and never ends."""
    yield ok("hangs", "so far")
    threading.Event().wait()


def aborts(_settings: Settings) -> Iterator[Finding]:
    """Finds something and takes its process down, as a driver may."""
    yield ok("aborts", "so far")
    os.abort()


def raises(settings: Settings) -> Iterator[Finding]:
    """Quotes a secret in an error, as a library may."""
    yield ok("raises", "so far")
    secret = settings.aws_secret_access_key
    raise RuntimeError(f"cannot sign with {secret.get_secret_value() if secret else ''}")
