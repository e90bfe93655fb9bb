"""The end of the process: what must not hang."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from worker import runtime
from worker.runtime import Worker


class HangingConsumer:
    """A consumer whose group never lets it go."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def close(self) -> None:
        self.released.wait(60)


def make_worker(consumer: Any) -> Worker:
    parts = [cast("Any", SimpleNamespace(close=lambda: None)) for _ in range(11)]
    worker = Worker(*parts)
    worker.consumer = consumer
    return worker


def test_a_close_that_does_not_come_back_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "LEAVE_S", 0.05)
    consumer = HangingConsumer()
    with capture_logs() as lines:
        make_worker(consumer).close()
    consumer.released.set()
    assert [line["event"] for line in lines] == ["group_not_left"]


def test_loops_that_hang_have_one_deadline_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "JOIN_S", 0.2)
    worker, released = make_worker(SimpleNamespace(close=lambda: None)), threading.Event()
    worker._threads = [threading.Thread(target=released.wait, args=(60,), daemon=True) for _ in range(10)]
    for thread in worker._threads:
        thread.start()
    before = time.monotonic()
    worker.stop()
    waited = time.monotonic() - before
    released.set()
    assert waited < 1.5, "ten times the deadline is 2 s"
