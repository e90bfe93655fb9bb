"""The retry queue: the order of tasks, and the fields of log lines while a task runs."""

from __future__ import annotations

import structlog
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from worker.delivery.retry_queue import RetryQueue
from worker.errors import StoreUnavailable
from worker.job import Lane


def test_the_most_urgent_goes_first_and_then_the_oldest() -> None:
    queue, done = RetryQueue(lambda: 0.0), []
    for lane, name in ((Lane.NORMAL, "n"), (Lane.URGENT, "u1"), (Lane.HIGH, "h"), (Lane.URGENT, "u2")):
        queue.add(lane, lambda name=name: done.append(name))  # type: ignore[misc]
    while queue.run_one():
        pass
    assert done == ["u1", "u2", "h", "n"]


def test_lines_name_the_job_while_its_task_runs_and_when_the_store_is_away() -> None:
    now = 0.0
    queue = RetryQueue(lambda: now)
    answers = iter([StoreUnavailable("away"), None])

    def task() -> None:
        structlog.get_logger().info("inside")
        answer = next(answers)
        if answer is not None:
            raise answer

    queue.add(Lane.HIGH, task, {"job_id": "a"})
    queue.add(Lane.NORMAL, lambda: structlog.get_logger().info("another"))
    with capture_logs([merge_contextvars]) as lines:
        assert queue.run_one()
        assert not queue.store_up
        assert queue.run_one()
        assert not queue.run_one()
        now = 1.0
        assert queue.run_one()
    assert [(line["event"], line.get("job_id")) for line in lines] == [
        ("inside", "a"),
        ("store_unavailable", "a"),
        ("another", None),
        ("inside", "a"),
    ]
    assert queue.store_up
