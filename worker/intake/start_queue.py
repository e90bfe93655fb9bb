"""Which of the jobs that may be drawn get their start recorded next. Pure.

A recorded start makes its job a suspect when the process dies, so it is recorded only for a job that the engine is
about to run: where the engine has room for it, the most urgent lane first, first come within a lane.

A suspect that one more crash would end as a crash loop is drawn alone: nothing else is started until it has ended, and
it is not started until all others have. So no job is ever failed for what its neighbours did: of the `limit` starts
that fail a job, the last one was its own. Suspects before their last start run beside others, since most of them only
were there when another job killed the process.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from worker.engine_interface import Room
from worker.job import Job, Lane, Origin

# Jobs of more urgent lanes that may overtake one that has to run alone; without a limit it might never find a moment.
OVERTAKEN_MAX = 16
# A suspect with more crashes than this runs alone even where the limit would allow it more.
_CRASHES_IN_COMPANY = 1
# Entries of jobs that have left are thrown out of the heap once they are most of so many.
_HEAP_MIN = 64


def is_lone(starts: int, limit: int) -> bool:
    """Whether a job that was started `starts` times without an end has to run alone.

    With a limit of 1 the first crash ends whatever ran, so that there is no start left to run alone with.
    """
    return starts > 0 and starts >= min(_CRASHES_IN_COMPANY + 1, limit - 1)


@dataclass(slots=True)
class _Waiting:
    job: Job
    alone: bool
    number: int
    overtaken: int = 0


@dataclass(slots=True)
class _Started:
    lane: Lane
    alone: bool
    drawn: bool = False


@dataclass(slots=True)
class StartQueue:
    """Its owner holds a lock around each call. None takes longer the more jobs wait, but for `waiting`.

    Args:
        bounds_s: the wait by lane beyond which the engine owes a lane its share, so that its first job is started.
        room: what the engine told last; 0 until it has.
    """

    bounds_s: tuple[float, float, float]
    room: Room = (0, 0, 0)
    _lanes: dict[Lane, OrderedDict[Origin, _Waiting]] = field(
        default_factory=lambda: {lane: OrderedDict() for lane in Lane}
    )
    _started: dict[Origin, _Started] = field(default_factory=dict)
    # The waiting jobs that have to run alone; those that expire, soonest first, some of which may have left.
    _alone: dict[Origin, _Waiting] = field(default_factory=dict)
    _expiring: list[tuple[float, int, Job]] = field(default_factory=list)
    _number: int = 0

    def add(self, job: Job, *, alone: bool) -> None:
        """A job may be drawn; `alone` is for one whose last start it will be (`is_lone`)."""
        self._number += 1
        entry = self._lanes[job.lane][job.origin] = _Waiting(job, alone, self._number)
        if alone:
            self._alone[job.origin] = entry
        if job.expires_at is not None:
            heapq.heappush(self._expiring, (job.expires_at, self._number, job))
            self._forget_left()

    def next(self, now: float) -> list[Job]:
        """The jobs whose starts are to be recorded now; they count as started. `now` is in seconds since the epoch."""
        free = []
        for entry in self._eligible(now):
            self._start(entry)
            free.append(entry.job)
        return free

    def drawn(self, origin: Origin) -> None:
        """The job has left the engine, and is not finished yet."""
        if origin in self._started:
            self._started[origin].drawn = True

    def leave(self, origin: Origin) -> None:
        """The job has ended or was released; unknown origins are ignored."""
        self._started.pop(origin, None)
        self.withdraw(origin)

    def withdraw(self, origin: Origin) -> bool:
        """Take out a job whose start is not recorded; False where it is not here, or started."""
        self._alone.pop(origin, None)
        return any(lane.pop(origin, None) is not None for lane in self._lanes.values())

    def waiting(self) -> list[Job]:
        """The jobs whose starts are not recorded, the most urgent lane first, first come within a lane."""
        return [entry.job for lane in self._lanes.values() for entry in lane.values()]

    def upcoming(self, count: int) -> tuple[Job, ...]:
        """The first `count` of the waiting jobs, for what can be prepared ahead."""
        entries = (entry.job for lane in self._lanes.values() for entry in lane.values())
        return tuple(islice(entries, count))

    def expired(self, now: float) -> list[Job]:
        """The waiting jobs whose `expires_at` has passed, in the order of `waiting`."""
        passed = []
        while self._expiring and self._expiring[0][0] < now:
            passed.append(heapq.heappop(self._expiring))
        still = [entry for entry in passed if self._is_waiting(entry)]
        for entry in still:
            heapq.heappush(self._expiring, entry)
        return [job for _, _, job in sorted(still, key=lambda entry: (entry[2].lane, entry[1]))]

    def _is_waiting(self, expiring: tuple[float, int, Job]) -> bool:
        _, number, job = expiring
        entry = self._lanes[job.lane].get(job.origin)
        return entry is not None and entry.number == number

    def _forget_left(self) -> None:
        count = len(self._expiring)
        if count > _HEAP_MIN and count > 2 * sum(map(len, self._lanes.values())):
            self._expiring = [entry for entry in self._expiring if self._is_waiting(entry)]
            heapq.heapify(self._expiring)

    def _eligible(self, now: float) -> Iterator[_Waiting]:
        """The entries to start; each is started before the next one is looked at."""
        passed_by = self._overtaken_too_often()
        if passed_by is not None:
            if not self._started:
                yield passed_by
            return
        for entries in self._lanes.values():
            while entries:
                entry = next(iter(entries.values()))
                if not self._has_room(entry.job, now):
                    break
                if self._has_to_be_apart(entry):
                    # Nor may those behind it go, or there would never be a moment without others.
                    return
                yield entry

    def _overtaken_too_often(self) -> _Waiting | None:
        often = (entry for entry in self._alone.values() if entry.overtaken >= OVERTAKEN_MAX)
        return min(often, key=lambda entry: (entry.job.lane, entry.number), default=None)

    def _has_room(self, job: Job, now: float) -> bool:
        in_engine = [other.lane for other in self._started.values() if not other.drawn]
        if sum(lane <= job.lane for lane in in_engine) < self.room[job.lane]:
            return True
        is_owed = job.lane not in in_engine and now - job.received_at > self.bounds_s[job.lane]
        return is_owed and self.room[job.lane] > 0

    def _has_to_be_apart(self, entry: _Waiting) -> bool:
        return bool(self._started) and (entry.alone or any(other.alone for other in self._started.values()))

    def _start(self, entry: _Waiting) -> None:
        job = entry.job
        self.withdraw(job.origin)
        self._started[job.origin] = _Started(job.lane, entry.alone)
        for other in self._alone.values():
            if entry.alone:
                other.overtaken = 0
            elif other.job.lane > job.lane and other.number < entry.number:
                other.overtaken += 1
