"""The retry queue: the order of tasks, and the fields of log lines while a task runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import structlog
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from worker.delivery.retry_queue import RetryQueue
from worker.errors import StoreUnavailable
from worker.job import Lane
from worker.telemetry import metrics


def test_the_most_urgent_goes_first_and_then_the_oldest() -> None:
    queue, done = RetryQueue(lambda: 0.0), []
    for lane, name in ((Lane.NORMAL, "n"), (Lane.URGENT, "u1"), (Lane.HIGH, "h"), (Lane.URGENT, "u2")):
        queue.add(lane, lambda name=name: done.append(name))  # type: ignore[misc]
    while queue.run_one():
        pass
    assert done == ["u1", "u2", "h", "n"]


def test_lines_name_the_job_while_its_task_runs_and_when_the_store_is_away() -> None:
    store = Store()
    queue = store.queue
    queue.add(Lane.HIGH, lambda: structlog.get_logger().info("inside"), {"job_id": "a"})
    queue.add(Lane.NORMAL, store.task("b"), {"job_id": "b"})
    store.away = "S3 refused PutObject: SlowDown (503)"
    with capture_logs([merge_contextvars]) as lines:
        assert queue.run_one()
        assert queue.run_one()
        assert not queue.store_up
        assert not queue.run_one()
        store.away = ""
        store.now = 1.0
        assert queue.run_one()
        assert queue.store_up
    assert [(line["event"], line.get("job_id")) for line in lines] == [
        ("inside", "a"),
        ("store_unavailable", "b"),
        ("store_available", None),
    ]
    assert lines[1]["reason"] == "S3 refused PutObject: SlowDown (503)"


class Store:
    """A store that is away for everybody or for some, and a queue whose time stands still."""

    def __init__(self) -> None:
        self.now = 0.0
        self.queue = RetryQueue(lambda: self.now)
        self.away = ""
        self.refused: set[str] = set()
        self.tried: list[str] = []
        self.done: list[str] = []

    def task(self, name: str) -> Callable[[], None]:
        def run() -> None:
            self.tried.append(name)
            if self.away or name in self.refused:
                raise StoreUnavailable(self.away or f"denied to {name}")
            self.done.append(name)

        return run

    def add(self, *names: str, lane: Lane = Lane.NORMAL, writes: bool = False) -> None:
        for name in names:
            self.queue.add(lane, self.task(name), writes=writes)

    def run_all(self) -> None:
        while self.queue.run_one():
            pass

    def pass_time(self, seconds: float, step: float = 0.05) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += step
            self.run_all()


def test_in_an_outage_one_task_is_tried_at_a_time_and_less_and_less_often() -> None:
    store = Store()
    store.away = "away"
    store.add(*(f"job-{number}" for number in range(200)))
    store.pass_time(600.0)
    # 0.25 s, twice as long each time, then every 10 s.
    assert 60 <= len(store.tried) <= 70
    assert len(set(store.tried)) == len(store.tried), "another one each time"
    store.away = ""
    store.pass_time(10.1)
    assert len(store.done) == 200
    assert store.queue.store_up


def test_while_a_probe_hangs_nothing_else_is_tried() -> None:
    store = Store()
    found: list[bool] = []

    def hang() -> None:
        # What the other threads of the pool find meanwhile.
        found.append(store.queue.run_one())
        raise StoreUnavailable("timeout")

    store.away = "timeout"
    store.add("first", "second")
    store.run_all()
    store.queue.add(Lane.URGENT, hang)
    store.now = 60.0
    assert store.queue.run_one()
    assert found == [False]
    assert store.tried == ["first"]


def test_a_log_line_tells_each_change_and_no_retry() -> None:
    store = Store()
    with capture_logs() as lines:
        store.away = "SlowDown"
        store.add(*(f"job-{number}" for number in range(50)))
        store.pass_time(100.0)
        store.away = "ExpiredToken"
        store.pass_time(100.0)
        store.away = ""
        store.pass_time(20.0)
    assert [(line["event"], line.get("reason")) for line in lines] == [
        ("store_unavailable", "SlowDown"),
        ("store_unavailable", "ExpiredToken"),
        ("store_available", None),
    ]


def test_a_task_that_alone_is_refused_holds_up_nobody() -> None:
    store = Store()
    store.refused = {"bad"}
    store.add("bad", lane=Lane.URGENT)
    store.add("one", "two", "three")
    store.pass_time(2.0)
    assert store.done == ["one", "two", "three"]
    downs = 0
    for number in range(100):
        store.add(f"later-{number}")
        store.pass_time(1.0, step=0.5)
        downs += not store.queue.store_up
    assert len(store.done) == 103
    assert downs == 0, "S3 answers all others"
    assert store.tried.count("bad") < 20
    store.refused.clear()
    store.pass_time(11.0)
    assert "bad" in store.done


def test_writing_fails_apart_from_reading() -> None:
    store = Store()
    store.refused = {f"put-{number}" for number in range(100)}
    store.add(*sorted(store.refused), writes=True)
    for number in range(100):
        store.add(f"get-{number}")
        store.pass_time(1.0, step=0.5)
        assert not store.queue.store_up
    assert len(store.done) == 100, "look-ups go on"
    assert sum(name.startswith("put") for name in store.tried) < 30
    store.refused.clear()
    store.pass_time(10.5)
    assert len(store.done) == 200


def test_the_metric_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[float] = []
    monkeypatch.setattr(metrics.STORE_UP, "set", values.append)
    store = Store()
    store.away = "away"
    store.add("a", writes=True)
    store.add("b")
    store.run_all()
    store.away = ""
    store.pass_time(1.0)
    assert values == [0, 0, False, True]


def test_the_wait_ends_when_a_task_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    waits: list[float] = []
    monkeypatch.setattr(store.queue._changed, "wait", waits.append)
    store.queue.wait(0.2)
    store.add("a")
    store.queue.wait(0.2)
    store.away = "away"
    store.run_all()
    store.queue.wait(5.0)
    assert waits == [0.2, 0.0, 0.25]


def test_a_task_that_did_not_ask_s3_says_nothing_about_it() -> None:
    store = Store()
    released: list[int] = []

    def release() -> bool:
        released.append(1)
        return False

    store.away = "away"
    store.add("job")
    store.run_all()
    for _ in range(50):
        store.queue.add(Lane.NORMAL, release)
    with capture_logs() as lines:
        store.pass_time(1.0)
    assert len(released) == 50, "none of them has to wait for another's pause"
    assert not store.queue.store_up
    assert lines == []
