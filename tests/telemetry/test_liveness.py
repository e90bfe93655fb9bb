"""Liveness: the heartbeat of the loops, which does not depend on how long an outside service takes."""

from __future__ import annotations

import threading

from worker.telemetry.health import STALE_AFTER_S, Health
from worker.threads import Loop, SystemThreads


def test_a_loop_that_waits_for_a_store_is_alive_however_long_it_takes() -> None:
    now = [0.0]
    health, threads = Health(lambda: now[0]), SystemThreads()
    asked, answered, working, done = (threading.Event() for _ in range(4))

    def upload() -> bool:
        with health.waiting():
            asked.set()
            answered.wait(30)
        working.set()
        return done.wait(30)

    threads.start(Loop("pool-0", upload, lambda _: None), health.beat, lambda *_: None)
    assert asked.wait(30)
    now[0] = 10 * STALE_AFTER_S
    assert health.stale() == []
    assert health.report()[0]
    answered.set()
    assert working.wait(30)
    assert health.stale() == [], "the answer is a heartbeat"
    now[0] += STALE_AFTER_S + 1
    assert health.stale() == ["pool-0"], "work of its own that hangs is still noticed"
    done.set()
    threads.stop(30)


def test_a_thread_that_is_no_loop_may_wait_too() -> None:
    health = Health(lambda: 0.0)
    with health.waiting():
        assert health.stale() == []
    assert health.report()[0]


def test_readiness_says_what_the_start_waits_for() -> None:
    health = Health(lambda: 0.0)
    assert health.not_ready() == ["starting"]
    health.starting = "waiting for S3: away"
    assert health.not_ready() == ["waiting for S3: away"]
