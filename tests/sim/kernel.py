"""Simulated time and threads: whatever could run at once runs in a seeded order, one tick at a time.

A tick that waits (for an answer, for a lock-free condition) lets the ticks of others run inside of it. So threads
interleave at every I/O call, though never back and forth: what began later ends first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from random import Random

EPOCH_S = 1_800_000_000.0


class Crashed(BaseException):
    """The simulated process of this frame is gone; only the kernel may catch it."""


class Process:
    """Something that can crash as a whole, and be stopped for a while."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.stopped_until = 0.0


class Kernel:
    """The clock and the queue of what happens next."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now = EPOCH_S
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._sequence = count()

    def clock(self) -> float:
        """Seconds since the epoch."""
        return self.now

    def at(self, delay_s: float, event: Callable[[], object]) -> None:
        """Let something happen later."""
        heapq.heappush(self._queue, (self.now + delay_s, next(self._sequence), event))

    def run_for(self, seconds: float) -> None:
        """Let everybody run until this much later."""
        deadline = self.now + seconds
        while self._queue and self._queue[0][0] <= deadline:
            when, _, event = heapq.heappop(self._queue)
            self.now = max(self.now, when)
            event()
        self.now = max(self.now, deadline)

    def run_until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Let everybody run until `done`; False when the time is up."""
        deadline = self.now + timeout_s
        while not done():
            if self.now >= deadline or not self._queue:
                return False
            self.run_for(max(0.0, self._queue[0][0] - self.now))
        return True

    def thread(self, process: Process, tick: Callable[[], float], died: Callable[[Exception], None]) -> None:
        """Call `tick` again and again; it returns how many seconds it sleeps. Never entered anew while in its tick."""

        def step() -> None:
            if not process.alive:
                return
            if process.stopped_until > self.now:
                self.at(process.stopped_until - self.now, step)
                return
            try:
                pause = tick()
            except Crashed:
                if process.alive:
                    raise
                return
            except AssertionError:
                raise
            except Exception as error:
                died(error)
                return
            if process.alive:
                self.at(pause, step)

        self.at(self.rng.uniform(0, 0.01), step)

    def wait(self, process: Process, seconds: float) -> None:
        """From inside a tick: let the others run. Raises Crashed when `process` has crashed meanwhile."""
        self.run_for(seconds)
        while process.alive and process.stopped_until > self.now:
            self.run_for(process.stopped_until - self.now)
        if not process.alive:
            raise Crashed(process.name)
