"""A fleet of GPUs under load, with the dispatcher's policy and without: a simulation of events.

Arrivals are Poisson. A worker draws one picture at a time, urgent before high before normal, and stops for a higher
lane at once. Without a dispatcher a request's partition decides its worker. With one, `worker.dispatch.policy` does:
each way between dispatcher and worker, a record there and a report back, takes a random time, so the policy works with
old reports, as it does on a real Kafka.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from worker.dispatch.policy import Backlog, Request, Roster, Worker
from worker.dispatch.roster import remembered
from worker.job import Lane

# Shares of the lanes, as in the capacity model.
SHARES = (0.1, 0.3, 0.6)
WAY_S = (0.025, 0.1)
PARTITIONS_PER_WORKER = 2
QUANTILE = 0.95


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is simulated.

    Attributes:
        picture_s: seconds per picture of each worker.
        load: arrivals as a share of what all workers together can draw.
        requests: number of requests; the first tenth warms up and is not counted.
        loras: number of LoRA sets, chosen with Zipf's law; 0 for none.
        change_s: seconds that a change of the LoRA set takes.
        affinity: whether the policy knows the LoRAs; without, it chooses as if there were none.
    """

    picture_s: tuple[float, ...]
    load: float
    requests: int
    loras: int = 0
    change_s: float = 0.0
    affinity: bool = True


@dataclass(slots=True)
class Outcome:
    """Waits in seconds until the first step by lane, changes of a worker's LoRAs, and those that read files for it."""

    waits_s: dict[Lane, list[float]] = field(default_factory=lambda: {lane: [] for lane in Lane})
    changes: int = 0
    reads: int = 0
    drawn: int = 0

    def quantile_s(self, lane: Lane, quantile: float = QUANTILE) -> float:
        """A quantile of the waits of a lane; 0 where there are none."""
        waits = sorted(self.waits_s[lane])
        return waits[min(len(waits) - 1, int(len(waits) * quantile))] if waits else 0.0

    @property
    def changes_share(self) -> float:
        """Changes of the LoRA set per picture."""
        return self.changes / self.drawn if self.drawn else 0.0

    @property
    def reads_share(self) -> float:
        """Changes to a set that the worker had not drawn lately, per picture."""
        return self.reads / self.drawn if self.drawn else 0.0


@dataclass(slots=True)
class _Gpu:
    """A worker: what it draws, and what waits or is parked there as (lane, number of arrival, request, rest)."""

    picture_s: float
    queue: list[tuple[Lane, int, Request, float]] = field(default_factory=list)
    running: tuple[Lane, int, Request, float] | None = None
    began_s: float = 0.0
    turn: int = 0
    merged: str = ""
    recent: tuple[str, ...] = ()


class _Simulation:
    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet = fleet
        self.random = random.Random(seed)
        self.outcome = Outcome()
        self.gpus = [_Gpu(seconds) for seconds in fleet.picture_s]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._started: set[int] = set()
        self.now_s = 0.0

    def at(self, when_s: float, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (when_s, self._number, event))

    def run(self, arrive: Callable[[int, Request], None], finished: Callable[[int, Request], None]) -> Outcome:
        self._finished = finished
        rate = self.fleet.load * sum(1 / seconds for seconds in self.fleet.picture_s)
        sets = _zipf(self.fleet.loras)

        def next_arrival(number: int) -> None:
            [lane] = self.random.choices(tuple(Lane), SHARES)
            lora = str(self.random.choices(range(len(sets)), cum_weights=sets)[0]) if sets else ""
            arrive(number, Request(number, lane, self.now_s, loras=lora))
            if number + 1 < self.fleet.requests:
                self.at(self.now_s + self.random.expovariate(rate), lambda: next_arrival(number + 1))

        self.at(0.0, lambda: next_arrival(0))
        while self._events:
            self.now_s, _, event = heapq.heappop(self._events)
            event()
        return self.outcome

    def give(self, index: int, number: int, request: Request) -> None:
        """A request arrives at a worker."""
        gpu = self.gpus[index]
        heapq.heappush(gpu.queue, (request.lane, number, request, request.pictures * gpu.picture_s))
        if gpu.running is not None and gpu.running[:2] > gpu.queue[0][:2] and gpu.running[0] > gpu.queue[0][0]:
            lane, old, parked, rest_s = gpu.running
            heapq.heappush(gpu.queue, (lane, old, parked, rest_s - (self.now_s - gpu.began_s)))
            gpu.running = None
        if gpu.running is None:
            self._start(index)

    def _start(self, index: int) -> None:
        gpu = self.gpus[index]
        gpu.turn += 1
        if not gpu.queue:
            return
        lane, number, request, rest_s = heapq.heappop(gpu.queue)
        counts = number >= self.fleet.requests // 10
        if number not in self._started:
            self._started.add(number)
            if counts:
                self.outcome.waits_s[lane].append(self.now_s - request.arrived_s)
                self.outcome.drawn += 1
        if request.loras and request.loras != gpu.merged:
            self.outcome.changes += counts
            self.outcome.reads += counts and request.loras not in gpu.recent
            gpu.recent, gpu.merged = remembered(gpu.recent, (request.loras,)), request.loras
            rest_s += self.fleet.change_s
        gpu.running, gpu.began_s = (lane, number, request, rest_s), self.now_s
        turn = gpu.turn
        self.at(self.now_s + rest_s, lambda: self._end(index, turn))

    def _end(self, index: int, turn: int) -> None:
        gpu = self.gpus[index]
        if gpu.turn != turn or gpu.running is None:
            return
        request, gpu.running = gpu.running[2], None
        self._start(index)
        self._finished(index, request)


def without_dispatch(fleet: Fleet, seed: int) -> Outcome:
    """Each request goes to the worker of its partition."""
    simulation = _Simulation(fleet, seed)
    partitions = PARTITIONS_PER_WORKER * len(fleet.picture_s)

    def arrive(number: int, request: Request) -> None:
        simulation.give(simulation.random.randrange(partitions) % len(fleet.picture_s), number, request)

    return simulation.run(arrive, lambda _index, _request: None)


def with_dispatch(fleet: Fleet, seed: int) -> Outcome:
    """Each request goes where the policy sends it, when it does."""
    simulation = _Simulation(fleet, seed)
    workers = Roster(Worker(str(index), picture_s=seconds) for index, seconds in enumerate(fleet.picture_s))
    backlog = Backlog()
    loras: dict[int, str] = {}

    def way_s() -> float:
        return simulation.random.uniform(*WAY_S)

    def dispatch() -> None:
        for choice in backlog.choose(workers, simulation.now_s):
            index, number = int(choice.worker.name), int(str(choice.request.key))
            sent = Request(number, choice.request.lane, choice.request.arrived_s, loras=loras.pop(number))
            simulation.at(simulation.now_s + way_s(), lambda i=index, n=number, r=sent: simulation.give(i, n, r))  # type: ignore[misc]

    def arrive(number: int, request: Request) -> None:
        loras[number] = request.loras
        known = request if fleet.affinity else Request(number, request.lane, request.arrived_s)
        backlog.add(known)
        dispatch()

    def finished(index: int, request: Request) -> None:
        def report() -> None:
            worker = workers[str(index)]
            worker.unfinished[request.lane] -= 1
            worker.seconds[request.lane] -= request.pictures * worker.picture_s
            if not any(worker.unfinished) and fleet.affinity:
                worker.loras = frozenset((request.loras,))
            workers.put(worker)
            dispatch()

        simulation.at(simulation.now_s + way_s(), report)

    return simulation.run(arrive, finished)


def keeps_bounds(outcome: Outcome, bounds_s: Sequence[float]) -> bool:
    """Whether the p95 wait of every lane is within its bound."""
    return all(outcome.quantile_s(lane) <= bound for lane, bound in zip(Lane, bounds_s, strict=True))


def _zipf(count: int) -> list[float]:
    return list(accumulate(1 / (rank + 1) for rank in range(count)))
