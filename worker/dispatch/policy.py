"""Which waiting request goes to which worker. Pure: no Kafka, no clock, no threads.

A partition is a queue of its own, so a fleet on partitions is as slow as its unluckiest worker. The dispatcher binds
late instead: it keeps a request until some worker has room for it. The rules, in the order in which they count:

1. Urgent before high before normal; within a lane first come, first served.
2. A worker has room for a lane while it has fewer unfinished requests of that lane and those above than it can draw at
   a time, and one more (its look-ahead, so that it never waits for the dispatcher). A request whose lane has waited
   beyond its bound is owed a place: then only the worker's requests of the same lane count, and the worker's own
   scheduler shares its steps among the lanes.
3. It goes to a worker that would begin it first: one with the fewest seconds of work of that lane and above. Seconds,
   not requests: a fast card may have two before a slow one has one. Workers that would begin it at about the same time
   are equal here (`TIE_SHARE`).
4. Among these, to one that has its LoRAs merged already. Else to one that has nothing to do, since whoever stops a
   picture for it changes its LoRAs twice; then to one that had its LoRAs merged lately and need not read them again;
   then to the one whose own LoRAs are asked for least, to the one with the least work of any lane, to the fastest.
5. While the lane's first request is patient (`PATIENCE`) and nobody has its LoRAs, a later one that some worker can
   draw without a change goes before it, and neither is look-ahead used up for it nor a picture stopped. A worker that
   has nothing to do is never kept waiting.

A request may name a model; only workers that have it are asked, and it never holds up requests for other models.
`roster.py` keeps the workers in the order that the third rule asks for.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from worker.dispatch.roster import LOOK_AHEAD, Ranking, Request, Roster, Worker
from worker.job import Lane
from worker.report import guide

__all__ = ["BOUNDS_S", "LOOK_AHEAD", "PATIENCE", "Backlog", "Choice", "Request", "Roster", "Worker"]

# Beyond these waits in seconds a lane is owed a place; the alerts use the same bounds.
BOUNDS_S: Mapping[Lane, float] = {lane: guide.BOUNDS_S[lane.label] for lane in Lane}
# For so long a request that needs a change of LoRAs may be passed over: in pictures of the worker that would begin it
# first, and never for longer than half of its bound. An urgent one never is.
PATIENCE: Mapping[Lane, float] = {Lane.URGENT: 0.0, Lane.HIGH: 0.5, Lane.NORMAL: 2.0}
# How many requests of a lane are looked at for one whose LoRAs a worker has.
WINDOW = 256
# How many workers that would begin a request at about the same time are compared.
COMPARED = 32
# Two workers begin a request at about the same time when they differ by less than this share of its own seconds. It may
# wait for one picture where that saves a change of LoRAs; an urgent one never does.
TIE_SHARE: Mapping[Lane, float] = {Lane.URGENT: 0.0, Lane.HIGH: 1.0, Lane.NORMAL: 1.0}
# Sets are counted over about this many requests, so that what is rarely asked for gives way.
COUNTED = 4_096


@dataclass(frozen=True, slots=True)
class Choice:
    """A request and the worker that it is to be sent to."""

    request: Request
    worker: Worker


class Backlog:
    """Requests that wait in the dispatcher, by lane and model, in order of arrival."""

    def __init__(self) -> None:
        # Ordered, since a plain dict gets slower with every entry that is deleted at its front.
        self._queues: dict[tuple[Lane, str | None], OrderedDict[Hashable, Request]] = {}
        self._popularity = Popularity()

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def add(self, request: Request) -> None:
        """Append a request to its queue."""
        self._queues.setdefault((request.lane, request.model), OrderedDict())[request.key] = request
        self._popularity.count(request.loras)

    def remove(self, request: Request) -> None:
        """Take a request out: it was sent, or its partition was given up. Unknown ones are ignored."""
        queue = self._queues.get((request.lane, request.model))
        if queue is not None:
            queue.pop(request.key, None)
            if not queue:
                del self._queues[request.lane, request.model]

    def waiting(self, lane: Lane) -> int:
        """Number of requests of a lane."""
        return sum(len(queue) for (of, _), queue in self._queues.items() if of == lane)

    def oldest_s(self, lane: Lane, now_s: float) -> float:
        """Return for how long the first request of a lane has waited, in seconds; 0 when none waits."""
        firsts = [next(iter(queue.values())) for (of, _), queue in self._queues.items() if of == lane]
        return max((now_s - first.arrived_s for first in firsts), default=0.0)

    def choose(self, workers: Roster, now_s: float) -> Iterator[Choice]:
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

    def _choose(self, lane: Lane, model: str | None, workers: Roster, now_s: float) -> Iterator[Choice]:
        while queue := self._queues.get((lane, model)):
            first = next(iter(queue.values()))
            ranking = workers.ranking(lane, model, owed=now_s - first.arrived_s > BOUNDS_S[lane])
            choice = self._choose_one(queue, first, ranking, workers, now_s)
            if choice is None:
                return
            choice.worker.take(choice.request)
            workers.put(choice.worker)
            self.remove(choice.request)
            yield choice

    def _choose_one(
        self, queue: Mapping[Hashable, Request], first: Request, ranking: Ranking, workers: Roster, now_s: float
    ) -> Choice | None:
        """The next request of a queue and its worker; None while the first one is to wait."""
        soonest = ranking.first()
        if soonest is None:
            return None
        at_s, *_, name = soonest
        lane, picture_s = first.lane, workers[name].picture_s
        limit_s = at_s + TIE_SHARE[lane] * first.pictures * picture_s
        patience_s = min(PATIENCE[lane] * picture_s, BOUNDS_S[lane] / 2)
        patient = now_s - first.arrived_s < patience_s
        for request in islice(queue.values(), WINDOW if patient else 1):
            fitting = ranking.fitting(request.loras, limit_s)
            if fitting is not None:
                return Choice(request, workers[fitting[-1]])
        if patient and any(workers[name].unfinished):
            return None
        return Choice(first, self._best(first, [workers[rank[-1]] for rank in ranking.within(limit_s, COMPARED)]))

    def _best(self, request: Request, workers: list[Worker]) -> Worker:
        """Return the worker that the request goes to, none of which has its LoRAs; see the module's fourth rule."""
        return min(
            workers,
            key=lambda worker: (
                any(worker.unfinished),
                request.loras not in worker.recent,
                self._popularity.of(worker),
                round(sum(worker.seconds), 3),
                worker.picture_s,
                worker.name,
            ),
        )


class Popularity:
    """How often each LoRA set was asked for lately."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._total = 0

    def count(self, loras: str) -> None:
        """Count a request; older requests count half as much from time to time, and are forgotten."""
        self._counts[loras] += 1
        self._total += 1
        if self._total > COUNTED:
            self._counts = Counter({known: count // 2 for known, count in self._counts.items() if count > 1})
            self._total = self._counts.total()

    def of(self, worker: Worker) -> int:
        """What a worker would give up by changing its LoRAs."""
        return sum(self._counts[loras] for loras in worker.loras)
