"""SIGTERM and SIGINT of a worker: the first asks for a drain, the second ends the process."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType

STDERR = 2


class StoppedEarly(BaseException):
    """A signal came before the worker had anything to finish. No `except Exception` on its way may keep it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C; 0 for SIGTERM, which asks for just this."""
        return 128 + self.number if self.number == signal.SIGINT else 0


class Signals:
    """Counts the signals. While the worker starts, the first one ends it.

    The handler must not log: it runs between any two instructions of the main thread, and where that is in the middle
    of a log line it holds the log's lock. Everything would stand still for good (the chaos run found it). It writes to
    the terminal's descriptor itself, which takes no lock.

    Args:
        drain_s: how long running jobs may take, for the message.
    """

    def __init__(self, drain_s: float = 0.0) -> None:
        self.count = 0
        self.number = 0
        self.starting = False
        self._message = (
            f"\nfinishing the running jobs, for {drain_s:g} s at most; what has not begun goes to other workers. "
            "Ctrl-C again ends at once, and nothing is lost.\n"
        ).encode()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self.number = number
        if self.count > 1:
            # Whatever is not committed is repeated by the next owner; nothing is lost.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif self.starting:
            raise StoppedEarly(number)
        elif number == signal.SIGINT:
            _tell_terminal(self._message)


def _tell_terminal(message: bytes) -> None:
    with suppress(OSError):
        if os.isatty(STDERR):
            os.write(STDERR, message)
