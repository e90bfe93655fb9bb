"""Time and threads of the process, as one object that the simulation replaces with simulated ones."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NoReturn, Protocol, TypeVar

import structlog

_log = structlog.get_logger()

T = TypeVar("T")

# How long an idle loop sleeps before it looks again by itself.
IDLE_S = 0.2
EXIT_CRASHED = 1
# So long after the time of a call, an interpreter that has not gone on is frozen.
FROZEN_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Loop:
    """One of the worker's loops.

    Args:
        tick: does one piece of work; False when there was nothing to do.
        wait: sleeps until there may be work again, at most the given seconds.
        first: is called once, on the loop's own thread, before the first tick.
    """

    name: str
    tick: Callable[[], bool]
    wait: Callable[[float], None]
    first: Callable[[], None] = lambda: None


class Threads(Protocol):
    """What the worker needs of an operating system."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds since some moment; for deadlines, since setting the machine's clock does not change it."""

    def sleep(self, seconds: float) -> None:
        """Let the other threads run for a while."""

    def current(self) -> object:
        """The identity of the calling thread; equal for two calls from the same one."""

    def answer(self, future: Future[T], timeout_s: float) -> T:
        """Wait for a result that another thread sets. Raises TimeoutError, or what the future holds."""

    def call(self, name: str, function: Callable[[], object], timeout_s: float) -> bool:
        """Run a call that may never return, on a thread of its own; False when it has not returned in time."""

    def end(self, reason: str) -> NoReturn:
        """End the process now, before any other thread can do more; the next owners repeat what is not committed."""

    def start(self, loop: Loop, beat: Callable[[str], None], died: Callable[[str, BaseException], None]) -> None:
        """Run a loop until `stop`.

        Args:
            beat: is called with the loop's name before every tick.
            died: is called, on the loop's thread, with the exception that ended it.
        """

    def stop(self, timeout_s: float) -> None:
        """End all loops; those that do not end within `timeout_s` altogether are left behind."""


class SystemThreads:
    """Real time and real threads."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def current(self) -> object:
        return threading.get_ident()

    def answer(self, future: Future[T], timeout_s: float) -> T:
        return future.result(timeout_s)

    def call(self, name: str, function: Callable[[], object], timeout_s: float) -> bool:
        # Not of an executor, whose threads Python waits for when the process ends.
        thread = threading.Thread(target=function, name=name, daemon=True)
        # librdkafka has been seen to wait for ever in a rebalance callback of `close` with the interpreter's lock held:
        # `rd_kafka_assign0` waits without a limit for the client's own thread, and confluent-kafka 2.16 does not give
        # the lock back around it. So it is with `consumer_group_metadata`. librdkafka#4884 (open) shows the same stack;
        # `rd_kafka_cgrp_op_serve` drops without an answer what a group is asked that has terminated meanwhile.
        # Then no Python code runs any more, and only a thread of C can end the process.
        faulthandler.dump_traceback_later(timeout_s + FROZEN_AFTER_S, exit=True, file=2)
        try:
            thread.start()
            thread.join(timeout_s)
        finally:
            faulthandler.cancel_dump_traceback_later()
        return not thread.is_alive()

    def end(self, reason: str) -> NoReturn:
        _log.error("process_ended", reason=reason, hint="nothing is lost: what is not committed is done again")
        # Not an exception: librdkafka would tell the broker that the partitions are free before it comes out of `poll`.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(EXIT_CRASHED)

    def start(self, loop: Loop, beat: Callable[[str], None], died: Callable[[str, BaseException], None]) -> None:
        def run() -> None:
            try:
                loop.first()
                while not self._stop.is_set():
                    beat(loop.name)
                    if not loop.tick():
                        loop.wait(IDLE_S)
            except BaseException as error:  # the poll thread raises it again and the process ends
                died(loop.name, error)

        thread = threading.Thread(target=run, name=loop.name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self, timeout_s: float) -> None:
        self._stop.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
