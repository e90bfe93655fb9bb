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
from worker.threads import Loop, SystemThreads


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
    part = cast("Any", SimpleNamespace(close=lambda: None, publisher=SimpleNamespace(close=lambda: None)))
    return Worker(part, SystemThreads(), part, part, part, part, part, consumer, part, part, part)


def test_a_close_that_does_not_come_back_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "LEAVE_S", 0.05)
    consumer = HangingConsumer()
    with capture_logs() as lines:
        make_worker(consumer).close()
    consumer.released.set()
    assert [line["event"] for line in lines] == ["group_not_left"]


def test_loops_that_hang_have_one_deadline_together() -> None:
    threads, released = SystemThreads(), threading.Event()

    def hang() -> bool:
        return released.wait(60)

    for number in range(10):
        threads.start(Loop(f"loop-{number}", hang, lambda _: None), lambda _: None, lambda *_: None)
    before = time.monotonic()
    threads.stop(0.2)
    waited = time.monotonic() - before
    released.set()
    assert waited < 1.5, "ten times the deadline is 2 s"


def test_a_loop_that_dies_is_reported_by_name() -> None:
    died: list[tuple[str, BaseException]] = []
    threads, problem = SystemThreads(), ValueError("a bug")

    def fail() -> bool:
        raise problem

    threads.start(Loop("engine", fail, lambda _: None), lambda _: None, lambda *what: died.append(what))
    threads.stop(5.0)
    assert died == [("engine", problem)]
