"""What other threads ask of the engine, done on the engine's thread before and after each step."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class Inbox:
    """Calls that wait for the engine's thread. Any thread may call `post`, and only the engine's the others."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()

    def post(self, call: Callable[[], None]) -> None:
        """Have a call made on the engine's thread, and wake that thread."""
        self._calls.append(call)
        self._wake.set()

    def run(self) -> None:
        """Make all calls that wait, in the order in which they were posted."""
        while self._calls:
            self._calls.popleft()()

    def wait(self, timeout_s: float) -> None:
        """Sleep until something is posted, at most `timeout_s`."""
        self._wake.wait(timeout_s)
        self._wake.clear()
