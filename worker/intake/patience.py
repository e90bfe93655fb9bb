"""How long the poll thread may wait inside a rebalance, so that none of its members goes unpolled for too long.

One thread polls all members of the worker, and each rebalance callback waits in it: for running jobs, for a flush that
is under way, for committed offsets. Each wait has a limit of its own. All of them together stay below
`max.poll.interval.ms` because each asks here first, whichever member it is for and however many follow one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

# Of `max.poll.interval.ms`. The rest is for the few calls that are made even where no time is left.
SHARE = 0.9


class Patience:
    """The poll thread's.

    Args:
        clock: monotonic seconds.
        interval_s: after so long without a poll, the group throws a member out.
    """

    def __init__(self, members: Iterable[str], clock: Callable[[], float], interval_s: float) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._polled_at = dict.fromkeys(members, clock())

    def polled(self, member: str) -> None:
        """This member is being polled; its rebalance callbacks run from now on."""
        self._polled_at[member] = self._clock()

    def waited_s(self) -> float:
        """How long the member that was polled least recently has not been."""
        now = self._clock()
        # One that was not polled in time is out of the group already, so nothing is gained by hurrying for it.
        return max((now - at for at in self._polled_at.values() if now - at <= self._interval_s), default=0.0)

    def left_s(self) -> float:
        """How long all waits may take from now on; 0 where no time is left."""
        return max(0.0, SHARE * self._interval_s - self.waited_s())
