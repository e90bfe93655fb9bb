"""Signals and the end of the process, which must not hang."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from worker import runtime
from worker.app import _Signals
from worker.runtime import Worker


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers as they were, afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_the_signal_handler_takes_no_lock() -> None:
    signals = _Signals()
    with capture_logs() as lines:
        signal.raise_signal(signal.SIGTERM)
    assert (signals.count, signals.number) == (1, signal.SIGTERM)
    assert lines == [], "it may have come in the middle of a log line, whose lock its own would wait for"


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
