"""The end of the process, which must not hang."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from worker import runtime
from worker.runtime import Worker
from worker.threads import Loop, SystemThreads


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
