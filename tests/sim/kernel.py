"""Simulated time and threads: exactly one thread runs at any moment, and a seed decides which one is next.

The next event runs on the real thread that currently has control. Only a tick that waits inside (for example for an
answer) keeps its real thread, suspended, and passes control on. Ticks therefore interleave at every wait, and ticks
that do not wait need no thread switch.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from itertools import count
from random import Random

# The threads of a process that was stopped go on in any order.
_WAKING_S = 0.1

EPOCH_S = 1_800_000_000.0


class Crashed(BaseException):
    """The simulated process of this frame is gone; only the kernel may catch it."""


class Process:
    """Something that can crash as a whole, and be stopped for a while."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.stopped_until = 0.0


class _Baton:
    """Lets one real thread go on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def give(self) -> None:
        self._lock.release()

    def wait(self) -> None:
        self._lock.acquire()


_Event = Callable[[], object] | _Baton


class Kernel:
    """The clock and the queue of what happens next."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.now = EPOCH_S
        self._queue: list[tuple[float, int, _Event]] = []
        self._sequence = count()
        self._main = _Baton()
        self._idle: list[_Baton] = []
        self._threads: list[threading.Thread] = []
        self._done: Callable[[], bool] = lambda: True
        self._deadline = self.now
        self._failure: BaseException | None = None
        self._over = False

    def clock(self) -> float:
        """Seconds since the epoch."""
        return self.now

    def at(self, delay_s: float, event: Callable[[], object]) -> None:
        """Let something happen later."""
        self._push(delay_s, event)

    def run_for(self, seconds: float) -> None:
        """Let everybody run until this much later. For the one outside only, as the next two."""
        self.run_until(lambda: False, seconds)

    def run_until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Let everybody run until `done`; False when the time is up."""
        self._done, self._deadline = done, self.now + timeout_s
        self._hand_on()
        self._main.wait()
        if self._failure is not None:
            raise self._failure
        return done()

    def close(self) -> None:
        """End the real threads."""
        self._over = True
        for baton in [event for _, _, event in self._queue if isinstance(event, _Baton)] + self._idle:
            baton.give()
        for thread in self._threads:
            thread.join()

    def thread(self, process: Process, tick: Callable[[], float], died: Callable[[Exception], None]) -> None:
        """Call `tick` again and again; it returns how many seconds it sleeps."""

        def step() -> None:
            if not process.alive:
                return
            if process.stopped_until > self.now:
                self.at(process.stopped_until - self.now + self.rng.uniform(0, _WAKING_S), step)
                return
            try:
                pause = tick()
            except Crashed:
                return
            except AssertionError:
                raise
            except Exception as error:
                died(error)
                return
            self.at(pause, step)

        self.at(self.rng.uniform(0, 0.01), step)

    def wait(self, process: Process, seconds: float) -> None:
        """From inside a tick: let the others run. Raises Crashed when `process` has crashed meanwhile."""
        if seconds > 0:
            self._sleep(seconds)
        while process.alive and process.stopped_until > self.now:
            self._sleep(process.stopped_until - self.now + self.rng.uniform(0, _WAKING_S))
        if not process.alive:
            raise Crashed(process.name)

    def _sleep(self, seconds: float) -> None:
        if not self._over:
            baton = _Baton()
            self._push(seconds, baton)
            self._hand_on()
            baton.wait()
        if self._over:
            raise Crashed("the simulation is over")

    def _push(self, delay_s: float, event: _Event) -> None:
        heapq.heappush(self._queue, (self.now + delay_s, next(self._sequence), event))

    def _hand_on(self) -> None:
        """Give the baton to a real thread that has nothing to do."""
        if self._idle:
            self._idle.pop().give()
            return
        baton = _Baton()
        thread = threading.Thread(target=self._serve, args=[baton], daemon=True)
        self._threads.append(thread)
        thread.start()
        baton.give()

    def _serve(self, baton: _Baton) -> None:
        while not self._over:
            baton.wait()
            self._run(baton)

    def _run(self, mine: _Baton) -> None:
        """Have the baton until it is another's turn."""
        while not self._over:
            heir = self._next()
            if heir is not None:
                self._idle.append(mine)
                heir.give()
                return

    def _next(self) -> _Baton | None:
        """Let one event happen here, or say who goes on."""
        if self._failure is not None or self._done():
            return self._main
        if not self._queue or self._queue[0][0] > self._deadline:
            self.now = max(self.now, self._deadline)
            return self._main
        when, _, event = heapq.heappop(self._queue)
        self.now = max(self.now, when)
        if isinstance(event, _Baton):
            return event
        try:
            event()
        except BaseException as error:
            self._failure = error
        return None
