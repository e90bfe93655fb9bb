"""Calls to S3 in a replay's pool: never too many under way, and patient with a short outage."""

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
    """Bridge a short outage of S3. Raises StoreUnavailable when it is a long one."""
    for attempt in stamina.retry_context(on=StoreUnavailable, attempts=_STORE_TRIES, wait_max=5.0):
        with attempt:
            return call()
    raise AssertionError("the last attempt raises")


def ahead(pool: ThreadPoolExecutor, function: Callable[[A], B], arguments: Iterable[A]) -> Iterator[B]:
    """`map` in order, with a bounded number of calls under way."""
    waiting: deque[Future[B]] = deque()
    limit = 2 * pool._max_workers
    for argument in arguments:
        waiting.append(pool.submit(function, argument))
        if len(waiting) >= limit:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def ended(calls: set[Future[A]], *, at_most: int) -> Iterator[A]:
    """Those that have ended; waits until no more than `at_most` are under way."""
    while calls:
        done, _ = wait(calls, timeout=None if len(calls) > at_most else 0, return_when=FIRST_COMPLETED)
        if not done:
            return
        calls -= done
        for call in done:
            yield call.result()
