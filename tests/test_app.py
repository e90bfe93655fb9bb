"""The end of the process, which must not hang."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from worker import app, runtime
from worker.app import run, wait_for_store
from worker.errors import BucketError, StoreUnavailable
from worker.intake.lane_members import LaneMembers
from worker.intake.patience import Patience
from worker.runtime import Worker
from worker.settings import Settings
from worker.telemetry.health import Health
from worker.threads import Loop, SystemThreads


class HangingConsumer:
    """A consumer whose group never lets it go."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def close(self) -> None:
        self.released.wait(60)


def make_worker(consumers: dict[str, Any]) -> Worker:
    part = cast("Any", SimpleNamespace(close=lambda: None, publisher=SimpleNamespace(close=lambda: None)))
    members = LaneMembers(consumers, Patience(consumers, time.monotonic, 300.0))
    return Worker(part, SystemThreads(), part, part, part, part, part, members, part, part, part)


def test_a_close_that_does_not_come_back_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "LEAVE_S", 0.05)
    consumer, left = HangingConsumer(), threading.Event()
    with capture_logs() as lines:
        make_worker({"urgent": consumer, "high": SimpleNamespace(close=left.set)}).close()
    consumer.released.set()
    assert [(line["event"], line["topic"]) for line in lines] == [("group_not_left", "urgent")]
    assert left.is_set()


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


# The start, without S3.


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers as they were, afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Outage:
    """A store that answers the check with these errors, one after another, then well; and a clock for it."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.now = 0.0
        self.checks = 0

    def check(self) -> None:
        self.checks += 1
        if self.errors:
            raise self.errors.pop(0)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_start_waits_for_s3_and_says_once_what_it_answers() -> None:
    health = Health(lambda: 0.0)
    outage = Outage(*[StoreUnavailable("away")] * 20, *[StoreUnavailable("denied")] * 3)
    with capture_logs() as lines:
        wait_for_store(outage.check, health, sleep=outage.sleep)
    assert [line["reason"] for line in lines] == ["away", "denied"]
    assert outage.checks == 24
    assert 150 < outage.now < 240, "every 10 s after a while"
    assert health.not_ready() == ["starting"]


def test_a_certain_mistake_ends_the_start() -> None:
    outage = Outage(StoreUnavailable("away"), BucketError("no such bucket"))
    with pytest.raises(BucketError):
        wait_for_store(outage.check, Health(lambda: 0.0), sleep=outage.sleep)


@pytest.mark.usefixtures("handlers")
def test_a_worker_without_s3_is_alive_and_not_ready_until_it_is_told_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Settings) -> Any:
        raise AssertionError("S3 has not answered")

    seen: list[tuple[list[str], bool]] = []
    waiting = app.wait_for_store

    def watched(check: Any, health: Health) -> None:
        def sleep(_: float) -> None:
            seen.append((health.not_ready(), health.report()[0]))
            signal.raise_signal(signal.SIGTERM)

        waiting(check, health, sleep=sleep)

    monkeypatch.setattr(app, "wait_for_store", watched)
    settings = Settings(
        _env_file=None,
        http_host="127.0.0.1",
        http_port=0,
        aws_s3_bucket="pictures",
        aws_endpoint_url_s3="http://127.0.0.1:1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    assert run(settings, load) == 0
    [(reasons, alive)] = seen
    assert alive
    assert reasons[0].startswith("waiting for S3: S3 does not answer")
