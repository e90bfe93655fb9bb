"""A day of a fleet that is scaled by its lag: arrivals, the autoscaler, and what they come to. Pure.

Requests arrive at random (Poisson) over a day whose rate follows a sine. The lag is what has arrived and is not
committed, so it includes the pictures that are being made. Every `poll_s` the autoscaler reads it, and asks for
`lag / target` workers within the limits of the HorizontalPodAutoscaler that KEDA makes: its tolerance, its two
stabilization windows and its policies. A new worker takes `start_s` until it can work.

Left out: failures, rebalances (a moved partition's work goes on at once) and the guaranteed share of an overdue lane.
"""

from __future__ import annotations

import heapq
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from devtools.autoscaling.policy import Autoscaler, Policy
from devtools.capacity.sizing import DAY_S
from devtools.capacity.waits import BOUNDS_S, QUANTILE, SHARES


@dataclass(slots=True, order=True)
class Job:
    """A request; `cold` when it came while there was no worker."""

    lane: int
    number: int
    arrived: float = field(compare=False)
    left_s: float = field(compare=False)
    cold: bool = field(compare=False, default=False)
    begun: bool = field(compare=False, default=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a day came to.

    Attributes:
        waits_s: p95 until the first step, by lane, of requests that came while there was a worker.
        cold_waits_s: the waits of all others, which a fleet without a worker has.
        load: share of the paid time in which workers draw.
        sizes: the number of workers that were asked for, each change of it.
        left: requests that were not answered at the end.
    """

    waits_s: tuple[float, ...]
    cold_waits_s: tuple[float, ...]
    load: float
    mean_workers: float
    sizes: tuple[int, ...]
    left: int

    @property
    def keeps_bounds(self) -> bool:
        """Whether each lane's p95 is within its bound."""
        return all(wait <= bound for wait, bound in zip(self.waits_s, BOUNDS_S, strict=True))


class Day(ABC):
    """The part that does not depend on how requests come to workers.

    Args:
        policy: the autoscaler's.
        service_s: seconds a picture.
        start_s: seconds until a new worker draws.
        delivery_s: seconds from a picture's last step to its commit.
        seed: of the arrivals.
    """

    def __init__(
        self, policy: Policy, service_s: float = 3.0, *, start_s: float = 120.0, delivery_s: float = 0.5, seed: int = 1
    ) -> None:
        self._policy = policy
        self._service_s, self._start_s, self._delivery_s = service_s, start_s, delivery_s
        self._rng = random.Random(seed)
        self._scaler = Autoscaler(policy)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._wanted = policy.min_workers
        self._ready = policy.min_workers
        self._sizes = [policy.min_workers]
        self._lag = 0
        self._served = 0
        self._waits: list[list[float]] = [[] for _ in SHARES]
        self._cold_waits: list[float] = []
        self._now = 0.0

    @abstractmethod
    def _place(self, job: Job) -> None:
        """A request has arrived."""

    @abstractmethod
    def _resize(self, workers: int) -> None:
        """So many workers can work from now on."""

    def run(self, pictures: float, peak_factor: float = 2.0, day_s: float = DAY_S, quiet_s: float = 0.0) -> Outcome:
        """Serve `pictures` requests, give or take, in a day of `day_s`, after which nothing comes for `quiet_s`."""
        arrivals = self._arrivals(pictures / day_s, peak_factor, day_s)

        def arrive() -> None:
            self._lag += 1
            lane = self._rng.choices(range(len(SHARES)), SHARES)[0]
            self._place(Job(lane, next(self._order), self._now, self._service_s, cold=not self._ready))
            self._at(next(arrivals, math.inf), arrive)

        def poll() -> None:
            self._scale()
            self._at(self._now + self._policy.poll_s, poll)

        self._at(next(arrivals, math.inf), arrive)
        self._at(self._policy.poll_s, poll)
        paid = 0.0
        while self._events and self._events[0][0] <= day_s + quiet_s:
            at, _, event = heapq.heappop(self._events)
            paid += self._wanted * (at - self._now)
            self._now = at
            event()
        return Outcome(
            tuple(quantile(lane) for lane in self._waits),
            tuple(self._cold_waits),
            self._served * self._service_s / paid,
            paid / (day_s + quiet_s),
            tuple(self._sizes),
            self._lag,
        )

    def _arrivals(self, per_second: float, peak_factor: float, day_s: float) -> Iterator[float]:
        """Times by thinning: the day begins and ends at its quietest."""
        now, most = 0.0, per_second * peak_factor
        while True:
            now += self._rng.expovariate(most)
            if now > day_s:
                return
            rate = per_second * (1 - (peak_factor - 1) * math.cos(2 * math.pi * now / day_s))
            if self._rng.random() * most < rate:
                yield now

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _begun(self, job: Job) -> None:
        """A job's first step, or its first after it was parked."""
        if not job.begun:
            job.begun = True
            waits = self._cold_waits if job.cold else self._waits[job.lane]
            waits.append(self._now - job.arrived)

    def _finished(self) -> None:
        """A job's last step."""
        self._served += 1
        self._at(self._now + self._delivery_s, self._commit)

    def _commit(self) -> None:
        self._lag -= 1

    def _scale(self) -> None:
        wanted = self._scaler.decide(self._now, self._lag, self._wanted)
        if wanted == self._wanted:
            return
        if wanted > self._wanted:
            self._at(self._now + self._start_s, partial(self._start, wanted - self._wanted))
        self._wanted = wanted
        self._sizes.append(wanted)
        if wanted < self._ready:
            self._set(wanted)

    def _start(self, more: int) -> None:
        self._set(min(self._wanted, self._ready + more))

    def _set(self, workers: int) -> None:
        if workers != self._ready:
            self._ready = workers
            self._resize(workers)


def quantile(waits: Sequence[float]) -> float:
    """The p95; 0 where there is nothing."""
    return sorted(waits)[int(QUANTILE * len(waits))] if waits else 0.0
