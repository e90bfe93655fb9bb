"""Which waiting request goes to which worker. Pure: no Kafka, no clock, no threads.

A partition is a queue of its own, so a fleet on partitions is as slow as its unluckiest worker. The dispatcher binds
late instead: it keeps a request until some worker has room for it. The rules, in the order in which they count:

1. Urgent before high before normal; within a lane first come, first served.
2. A worker has room for a lane while it has fewer unfinished requests of that lane and those above than it can draw at
   a time, and one more (its look-ahead, so that it never waits for the dispatcher). A request whose lane has waited
   beyond its bound is owed a place: then only the worker's requests of the same lane count, and the worker's own
   scheduler shares its steps among the lanes.
3. It goes to the worker that would begin it first: the one with the fewest seconds of work of that lane and above.
   Seconds, not requests: a fast card may have two before a slow one has one.
4. Among workers that would begin it at about the same time, to one that has its LoRAs merged already, then to the one
   with the least work of any lane, then to the one whose own LoRAs are asked for least, then to the fastest.
5. Where none of these has its LoRAs, a later request of the lane that fits the chosen worker may go first, but not for
   longer than the lane's patience.

A request may name a model; only workers that have it are asked, and it never holds up requests for other models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from worker.job import Lane
from worker.report import guide

LOOK_AHEAD = 1
# Beyond these waits in seconds a lane is owed a place; the alerts use the same bounds.
BOUNDS_S: Mapping[Lane, float] = {lane: guide.BOUNDS_S[lane.label] for lane in Lane}
# A request may be passed over for so long, for the sake of fewer LoRA changes; an urgent one never is.
PATIENCE_S: Mapping[Lane, float] = {Lane.URGENT: 0.0, Lane.HIGH: 1.0, Lane.NORMAL: 4.0}
# How many requests of a lane are looked at for one whose LoRAs a worker has.
WINDOW = 256
# Two workers begin a request at about the same time when they differ by less than this share of its own seconds. A
# normal request may wait for one picture where that saves a change of LoRAs; an urgent one never waits for that.
TIE_SHARE: Mapping[Lane, float] = {Lane.URGENT: 0.0, Lane.HIGH: 0.25, Lane.NORMAL: 1.0}
# Sets are counted over about this many requests, so that what is rarely asked for gives way.
COUNTED = 4_096


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the policy sees it.

    Attributes:
        key: what the caller knows it by.
        lane: its lane.
        arrived_s: when the dispatcher read it, on the dispatcher's clock.
        pictures: its work as a multiple of a standard picture's.
        loras: name of its LoRA set; empty for none, which every worker can draw at no cost.
        model: the model that it must be drawn with; None for whichever a worker has.
    """

    key: Hashable
    lane: Lane
    arrived_s: float
    pictures: float = 1.0
    loras: str = ""
    model: str | None = None


@dataclass(slots=True)
class Worker:
    """What is known of a worker: its last report, and what has been sent to it since.

    Attributes:
        name: its id.
        rows: how many pictures it draws at a time.
        picture_s: seconds that it takes for a standard picture.
        models: what it has loaded.
        loras: the LoRA sets that it has merged, or will have when what it was sent is drawn.
        accepts: whether anything may be sent; false while it drains.
        lanes: those that it has a partition of.
        unfinished: requests by lane that it has not finished.
        seconds: seconds of work by lane that these are.
    """

    name: str
    rows: int = 1
    picture_s: float = 1.0
    models: frozenset[str] = frozenset()
    loras: frozenset[str] = frozenset()
    accepts: bool = True
    lanes: frozenset[Lane] = frozenset(Lane)
    unfinished: list[int] = field(default_factory=lambda: [0] * len(Lane))
    seconds: list[float] = field(default_factory=lambda: [0.0] * len(Lane))

    def has_room(self, lane: Lane, *, owed: bool = False) -> bool:
        """Whether it may be sent one more request of `lane`; `owed` leaves the lanes above out of account."""
        held = self.unfinished[lane] if owed else sum(self.unfinished[: lane + 1])
        return self.accepts and lane in self.lanes and held < self.rows + LOOK_AHEAD

    def ahead_s(self, lane: Lane) -> float:
        """Seconds until it would begin a new request of `lane`: its work of that lane and those above."""
        return sum(self.seconds[: lane + 1]) / self.rows

    def draws(self, request: Request) -> bool:
        """Whether it has the model that the request names."""
        return request.model is None or request.model in self.models

    def fits(self, request: Request) -> bool:
        """Whether it can draw the request without changing its LoRAs."""
        return not request.loras or request.loras in self.loras

    def take(self, request: Request) -> None:
        """Count a request that is sent to it. What it draws last is what it will have merged."""
        self.unfinished[request.lane] += 1
        self.seconds[request.lane] += request.pictures * self.picture_s
        if request.loras:
            self.loras = frozenset((request.loras,))


@dataclass(frozen=True, slots=True)
class Choice:
    """A request and the worker that it is to be sent to."""

    request: Request
    worker: Worker


class Backlog:
    """Requests that wait in the dispatcher, by lane and model, in order of arrival."""

    def __init__(self) -> None:
        self._queues: dict[tuple[Lane, str | None], dict[Hashable, Request]] = {}
        self._passed_over_s: dict[Hashable, float] = {}
        self._popularity = Popularity()

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def add(self, request: Request) -> None:
        """Append a request to its queue."""
        self._queues.setdefault((request.lane, request.model), {})[request.key] = request
        self._popularity.count(request.loras)

    def remove(self, request: Request) -> None:
        """Take a request out: it was sent, or its partition was given up. Unknown ones are ignored."""
        queue = self._queues.get((request.lane, request.model), {})
        queue.pop(request.key, None)
        self._passed_over_s.pop(request.key, None)
        if not queue:
            self._queues.pop((request.lane, request.model), None)

    def waiting(self, lane: Lane) -> int:
        """Number of requests of a lane."""
        return sum(len(queue) for (of, _), queue in self._queues.items() if of == lane)

    def oldest_s(self, lane: Lane, now_s: float) -> float:
        """Return for how long the first request of a lane has waited, in seconds; 0 when none waits."""
        firsts = [next(iter(queue.values())) for (of, _), queue in self._queues.items() if of == lane]
        return max((now_s - first.arrived_s for first in firsts), default=0.0)

    def choose(self, workers: Mapping[str, Worker], now_s: float) -> Iterator[Choice]:
        """Yield what is to be sent now, and take it out; `workers` are updated as if it had been sent.

        What nobody has room for stays.
        """
        for lane in Lane:
            # A queue is left once its first request finds no room, so each worker's room is asked for by one queue.
            for model in self._models(lane):
                yield from self._choose(lane, model, workers, now_s)

    def _models(self, lane: Lane) -> list[str | None]:
        firsts = [
            (next(iter(queue.values())).arrived_s, model) for (of, model), queue in self._queues.items() if of == lane
        ]
        return [model for _, model in sorted(firsts, key=lambda first: first[0])]

    def _choose(self, lane: Lane, model: str | None, workers: Mapping[str, Worker], now_s: float) -> Iterator[Choice]:
        opened: dict[bool, list[Worker]] = {}
        while queue := self._queues.get((lane, model)):
            first = next(iter(queue.values()))
            owed = now_s - first.arrived_s > BOUNDS_S[lane]
            if owed not in opened:
                opened[owed] = [worker for worker in workers.values() if worker.draws(first)]
            opened[owed] = [worker for worker in opened[owed] if worker.has_room(lane, owed=owed)]
            if not opened[owed]:
                return
            worker = _best(opened[owed], first, self._popularity)
            request = first if worker.fits(first) else self._fitting(queue, first, worker, now_s)
            worker.take(request)
            self.remove(request)
            yield Choice(request, worker)

    def _fitting(self, queue: Mapping[Hashable, Request], first: Request, worker: Worker, now_s: float) -> Request:
        """Return a later request that the worker can draw without a change of LoRAs, while the first has patience."""
        since_s = self._passed_over_s.setdefault(first.key, now_s)
        if now_s - since_s >= PATIENCE_S[first.lane]:
            return first
        return next((request for request in islice(queue.values(), WINDOW) if worker.fits(request)), first)


class Popularity:
    """How often each LoRA set was asked for lately."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, loras: str) -> None:
        """Count a request; older requests count half as much from time to time, and are forgotten."""
        self._counts[loras] += 1
        if self._counts.total() > COUNTED:
            self._counts = Counter({known: count // 2 for known, count in self._counts.items() if count > 1})

    def of(self, worker: Worker) -> int:
        """What a worker would give up by changing its LoRAs."""
        return sum(self._counts[loras] for loras in worker.loras)


def _best(workers: list[Worker], request: Request, popularity: Popularity) -> Worker:
    """Return the worker that the request goes to; see the module's third and fourth rule."""
    lane = request.lane
    ahead = [(worker.ahead_s(lane), worker) for worker in workers]
    least_s = min(ahead_s for ahead_s, _ in ahead)
    share = TIE_SHARE[lane] * request.pictures
    return min(
        (worker for ahead_s, worker in ahead if ahead_s <= least_s + share * worker.picture_s),
        key=lambda worker: (
            not worker.fits(request),
            sum(worker.seconds),
            popularity.of(worker),
            worker.picture_s,
            worker.name,
        ),
    )
