"""The simulated threads share one core: only one runs at any moment, and a wake-up on another core costs more."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

_NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


@pytest.fixture(autouse=True)
def one_core() -> Iterator[None]:
    """Keep this thread, and those that it starts, on one core: each process of pytest-xdist on another."""
    if not hasattr(os, "sched_setaffinity"):  # macOS
        yield
        return
    before = os.sched_getaffinity(0)
    cores = sorted(before)
    os.sched_setaffinity(0, {cores[_NUMBER % len(cores)]})
    yield
    os.sched_setaffinity(0, before)
