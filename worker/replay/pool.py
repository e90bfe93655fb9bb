"""Calls to S3 on a replay's thread pool: a bounded number at a time, retried during a short outage."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import stamina

from worker.errors import StoreUnavailable

_STORE_TRIES = 6

A = TypeVar("A")
B = TypeVar("B")


def patiently(call: Callable[[], A]) -> A:
    """Call `call`, and retry while S3 is unavailable.

    Raises:
        StoreUnavailable: S3 was unavailable in every one of the attempts.
    """
    for attempt in stamina.retry_context(on=StoreUnavailable, attempts=_STORE_TRIES, wait_max=5.0):
        with attempt:
            return call()
    raise AssertionError("the last attempt raises")


def ahead(pool: ThreadPoolExecutor, function: Callable[[A], B], arguments: Iterable[A]) -> Iterator[B]:
    """Like `map`, on the pool: yields results in order, with a bounded number of calls running ahead."""
    waiting: deque[Future[B]] = deque()
    limit = 2 * pool._max_workers
    for argument in arguments:
        waiting.append(pool.submit(function, argument))
        if len(waiting) >= limit:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def ended(calls: set[Future[A]], *, at_most: int) -> Iterator[A]:
    """Yield the results of calls that have ended, and wait until at most `at_most` are still running."""
    while calls:
        done, _ = wait(calls, timeout=None if len(calls) > at_most else 0, return_when=FIRST_COMPLETED)
        if not done:
            return
        calls -= done
        for call in done:
            yield call.result()
