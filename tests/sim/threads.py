"""The kernel's time and threads in the place of a process's own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import get_ident
from typing import NoReturn, TypeVar

from tests.sim.kernel import Crashed, Kernel, Process
from worker.threads import Loop

T = TypeVar("T")

ANSWER_PAUSE_S = 0.05


class SimThreads:
    """The kernel's time and threads, of one process.

    Args:
        clock_off_s: how far the process's clock is off.
    """

    def __init__(
        self,
        kernel: Kernel,
        process: Process,
        died: Callable[[Exception], None],
        end: Callable[[str], None],
        clock_off_s: float = 0.0,
    ) -> None:
        self._clock_off_s = clock_off_s
        self._kernel, self._process, self._died, self._end = kernel, process, died, end
        # Real thread -> name of the simulated one whose tick runs on it.
        self._running: dict[int, str] = {}
        self._stopped = False

    def now(self) -> float:
        return self._kernel.now + self._clock_off_s

    def monotonic(self) -> float:
        return self._kernel.now

    def sleep(self, seconds: float) -> None:
        self._kernel.wait(self._process, seconds * self._kernel.rng.uniform(1, 5))

    def current(self) -> object:
        return self._running.get(get_ident())

    def answer(self, future: Future[T], timeout_s: float) -> T:
        deadline = self._kernel.now + timeout_s
        while not future.done():
            if self._kernel.now >= deadline:
                raise TimeoutError
            self._kernel.wait(self._process, ANSWER_PAUSE_S)
        return future.result()

    def call(self, _name: str, function: Callable[[], object], _timeout_s: float) -> bool:
        function()
        return True

    def end(self, reason: str) -> NoReturn:
        self._end(reason)
        raise Crashed(reason)

    def start(self, loop: Loop, _beat: Callable[[str], None], _died: Callable[[str, BaseException], None]) -> None:
        uniform = self._kernel.rng.uniform
        first = [loop.first]

        def tick() -> float:
            if self._stopped:
                return 60.0
            while first:
                first.pop()()
            return uniform(0.001, 0.03) if loop.tick() else uniform(0.03, 0.25)

        self.run(loop.name, tick)

    def run(self, name: str, tick: Callable[[], float]) -> None:
        """Call `tick` again and again; it returns how long it sleeps."""

        def named() -> float:
            self._running[get_ident()] = name
            try:
                return tick()
            finally:
                del self._running[get_ident()]

        self._kernel.thread(self._process, named, self._died)

    def stop(self, _timeout_s: float) -> None:
        self._stopped = True
