"""The bounded waits of the poll thread, in rebalances and at the end: for jobs, for flushes, for last commits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worker.delivery.publish import Publisher, Touch
from worker.delivery.transport import SEND_MAX_S
from worker.intake.ledger import TopicPartition as Key
from worker.intake.patience import Patience
from worker.telemetry import metrics
from worker.threads import Threads

# How long the last commit of a partition may take when it is given away: until its jobs are in, and until it is done.
LAST_COMMIT_S = 5.0
# Beyond the longest that a flush takes once it has looked into the books.
SETTLE_S = SEND_MAX_S + 5.0

_PAUSE_S = 0.01


class PollWaits:
    """Each wait is bounded by itself, and together with all others of the poll thread by `patience`.

    Args:
        serve: does what other threads want of the consumer; called while the poll thread waits.
    """

    def __init__(self, threads: Threads, patience: Patience, serve: Callable[[], None]) -> None:
        self._threads = threads
        self._patience = patience
        self._serve = serve

    def until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Let the other threads work until `done`; False when the time is up."""
        deadline = self._threads.monotonic() + timeout_s
        while not done():
            if self._threads.monotonic() >= deadline:
                return False
            # Only the poll thread waits here, and the publisher may need it for the very thing that is waited for.
            self._serve()
            self._threads.sleep(_PAUSE_S)
        return True

    def for_flush(self, publisher: Publisher) -> None:
        """Before partitions come, and when they are off the books: let a flush end that may hold their offsets.

        Where it does not end, the process does, at once: this call must not return while a flush may still reach the
        brokers that was made up from older books.
        """
        flush = publisher.flush_under_way
        if flush is None:
            return
        before = self._threads.monotonic()
        within_s = min(SETTLE_S, self._patience.left_s())
        if not self.until(lambda: publisher.flush_under_way != flush, within_s):
            metrics.SETTLE_TIMEOUTS.inc()
            self._threads.end(f"a flush has not ended for {within_s:.0f} s, and its partitions may be given away")
        metrics.SETTLE.observe(self._threads.monotonic() - before)

    def for_last_commit(self, publisher: Publisher, partitions: Sequence[Key], unfinished: Callable[[], int]) -> None:
        """Before partitions go: wait until nothing of them is unfinished, and commit them a last time."""
        self.until(lambda: unfinished() == 0, self._last_commit_s())
        publisher.enqueue(Touch(tuple(partitions)), self._threads.monotonic())
        self.until(lambda: publisher.idle, self._last_commit_s())

    def waited_s(self) -> float:
        """How long the member that was polled least recently has not been."""
        return self._patience.waited_s()

    def left_s(self) -> float:
        """How long a wait may take that is followed by the last commit."""
        return self._patience.left_s() - SETTLE_S - 2 * LAST_COMMIT_S

    def _last_commit_s(self) -> float:
        return min(LAST_COMMIT_S, self._patience.left_s() - SETTLE_S)
