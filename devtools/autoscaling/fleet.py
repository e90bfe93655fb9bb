"""What KEDA's target does to waits and cost: a fleet that is scaled by its lag, simulated event by event. Pure.

Requests arrive at random (Poisson) over a day whose rate follows a sine, each in a partition drawn at random. A worker
serves its partitions' requests one after another, the most urgent first, and parks a less urgent one (as
`devtools.capacity` assumes). The lag is what has arrived and is not committed, so it includes the pictures that are
being made. Every `poll_s` the autoscaler reads it, and asks for `lag / target` workers within the limits of the
HorizontalPodAutoscaler that KEDA makes: its tolerance, its two stabilization windows and its policies. A new worker
takes `start_s` until it can work.

Left out: failures, rebalances (a moved partition's work goes on at once) and the guaranteed share of an overdue lane.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from devtools.capacity.sizing import DAY_S
from devtools.capacity.waits import BOUNDS_S, QUANTILE, SHARES

# kube-controller-manager's --horizontal-pod-autoscaler-tolerance.
TOLERANCE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """KEDA's and the HPA's numbers; a test holds `k8s/base/scaled-object.yaml` to them. Seconds, and lag per worker."""

    # The largest, in quarters, that keeps the guide's bounds from 10,000 to 300,000 pictures a day (docs/capacity.md).
    target: float = 1.25
    min_workers: int = 1
    max_workers: int = 6
    poll_s: float = 15.0
    up_window_s: float = 30.0
    up_percent: float = 100.0
    up_period_s: float = 60.0
    down_window_s: float = 600.0
    down_workers: int = 1
    down_percent: float = 0.0
    down_period_s: float = 300.0

    @property
    def partitions(self) -> int:
        """Of each request topic: two for each worker that there can be."""
        return 2 * self.max_workers


# The overlays without and with many GPUs.
SMALL = Policy()
LARGE = Policy(min_workers=4, max_workers=48, down_percent=5)
# Pictures a day, and the policy for them: the rows of docs/capacity.md.
DEMANDS = ((30_000, SMALL), (100_000, LARGE), (300_000, LARGE))
TARGETS = (1.0, 1.25, 2.0, 8.0)


@dataclass(slots=True)
class Autoscaler:
    """The HPA's decision (kube-controller-manager, `horizontal.go`), without a clock of its own."""

    policy: Policy
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _changes: deque[tuple[float, int]] = field(default_factory=deque)

    def decide(self, now: float, lag: float, workers: int) -> int:
        """The number of workers that it sets, when there are `workers`."""
        policy = self.policy
        near = abs(lag / (policy.target * workers) - 1) <= TOLERANCE
        wanted = workers if near else math.ceil(lag / policy.target)
        self._wanted.append((now, wanted))
        while self._wanted[0][0] < now - max(policy.up_window_s, policy.down_window_s):
            self._wanted.popleft()
        least = min(n for at, n in self._wanted if at >= now - policy.up_window_s)
        most = max(n for at, n in self._wanted if at >= now - policy.down_window_s)
        chosen = min(max(workers, least), most) if least <= most else workers
        if chosen > workers:
            before = workers - self._changed(now - policy.up_period_s)
            chosen = max(workers, min(chosen, math.ceil(before * (1 + policy.up_percent / 100))))
        elif chosen < workers:
            before = workers - self._changed(now - policy.down_period_s)
            fewest = min(before - policy.down_workers, int(before * (1 - policy.down_percent / 100)))
            chosen = min(workers, max(chosen, fewest))
        chosen = min(max(chosen, policy.min_workers), policy.max_workers)
        if chosen != workers:
            self._changes.append((now, chosen - workers))
        return chosen

    def _changed(self, since: float) -> int:
        return sum(change for at, change in self._changes if at > since)


@dataclass(slots=True, order=True)
class _Job:
    lane: int
    number: int
    arrived: float = field(compare=False)
    partition: int = field(compare=False)
    left_s: float = field(compare=False)
    begun: bool = field(compare=False, default=False)


@dataclass(slots=True)
class _Worker:
    waiting: list[_Job] = field(default_factory=list)
    job: _Job | None = None
    since: float = 0.0
    # Counts its jobs, so that the end of a parked one is not taken for the end of the next.
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """`waits_s`: p95 over the day until the first step, by lane. `load`: share of paid time in which workers draw."""

    waits_s: tuple[float, ...]
    load: float
    mean_workers: float
    most_workers: int

    @property
    def keeps_bounds(self) -> bool:
        return all(wait <= bound for wait, bound in zip(self.waits_s, BOUNDS_S, strict=True))


class Fleet:
    """A day of a fleet. `service_s`: seconds a picture; `delivery_s`: from its last step to its commit."""

    def __init__(
        self, policy: Policy, service_s: float = 3.0, *, start_s: float = 120.0, delivery_s: float = 0.5, seed: int = 1
    ) -> None:
        self._policy = policy
        self._service_s, self._start_s, self._delivery_s = service_s, start_s, delivery_s
        self._rng = random.Random(seed)
        self._scaler = Autoscaler(policy)
        self._workers = [_Worker() for _ in range(policy.min_workers)]
        self._events: list[tuple[float, int, str, _Worker | None, int]] = []
        self._order = count()
        self._wanted = policy.min_workers
        self._lag = 0
        self._waits: list[list[float]] = [[] for _ in SHARES]
        self._most = policy.min_workers

    def run(self, pictures: float, peak_factor: float = 2.0, day_s: float = DAY_S) -> Outcome:
        """Serve `pictures` requests, give or take, in a day of `day_s`."""
        arrivals = self._arrivals(pictures / day_s, peak_factor, day_s)
        self._schedule(next(arrivals, math.inf), "arrival")
        self._schedule(self._policy.poll_s, "poll")
        paid, served, clock = 0.0, 0, 0.0
        while self._events:
            now, _, kind, worker, turn = heapq.heappop(self._events)
            if now > day_s:
                break
            paid += self._wanted * (now - clock)
            clock = now
            if kind == "arrival":
                self._arrive(now)
                self._schedule(next(arrivals, math.inf), "arrival")
            elif kind == "end" and worker is not None and worker.turn == turn:
                served += 1
                worker.job = None
                self._begin(worker, now)
                self._schedule(now + self._delivery_s, "commit")
            elif kind == "commit":
                self._lag -= 1
            elif kind == "poll":
                self._scale(now)
                self._schedule(now + self._policy.poll_s, "poll")
            elif kind == "ready":
                self._resize(min(self._wanted, len(self._workers) + turn), now)
        waits = tuple(quantile(lane) for lane in self._waits)
        return Outcome(waits, served * self._service_s / paid, paid / day_s, self._most)

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

    def _schedule(self, at: float, kind: str, worker: _Worker | None = None, turn: int = 0) -> None:
        heapq.heappush(self._events, (at, next(self._order), kind, worker, turn))

    def _arrive(self, now: float) -> None:
        lane = self._rng.choices(range(len(SHARES)), SHARES)[0]
        partition = self._rng.randrange(self._policy.partitions)
        self._lag += 1
        job = _Job(lane, next(self._order), now, partition, self._service_s)
        self._give(job, now)

    def _give(self, job: _Job, now: float) -> None:
        worker = self._workers[job.partition % len(self._workers)]
        heapq.heappush(worker.waiting, job)
        if worker.job is None:
            self._begin(worker, now)
        elif worker.job.lane > job.lane:
            self._park(worker, now)
            self._begin(worker, now)

    def _begin(self, worker: _Worker, now: float) -> None:
        worker.turn += 1
        if not worker.waiting:
            return
        job = heapq.heappop(worker.waiting)
        if not job.begun:
            job.begun = True
            self._waits[job.lane].append(now - job.arrived)
        worker.job, worker.since = job, now
        self._schedule(now + job.left_s, "end", worker, worker.turn)

    def _park(self, worker: _Worker, now: float) -> None:
        if worker.job is not None:
            worker.job.left_s -= now - worker.since
            heapq.heappush(worker.waiting, worker.job)
            worker.job = None

    def _scale(self, now: float) -> None:
        wanted = self._scaler.decide(now, self._lag, self._wanted)
        if wanted > self._wanted:
            self._schedule(now + self._start_s, "ready", None, wanted - self._wanted)
        self._wanted = wanted
        self._most = max(self._most, wanted)
        if wanted < len(self._workers):
            self._resize(wanted, now)

    def _resize(self, workers: int, now: float) -> None:
        """Partitions move; what waits in them goes along."""
        if workers == len(self._workers):
            return
        jobs: list[_Job] = []
        for worker in self._workers:
            self._park(worker, now)
            worker.turn += 1
            jobs += worker.waiting
        self._workers = [_Worker() for _ in range(workers)]
        for job in sorted(jobs):
            self._give(job, now)


def quantile(waits: Sequence[float]) -> float:
    """The p95; 0 where there is nothing."""
    return sorted(waits)[int(QUANTILE * len(waits))] if waits else 0.0


def row(pictures: int, policy: Policy, target: float) -> str:
    """Simulate one demand with one target; a row of the table."""
    seen = Fleet(replace(policy, target=target)).run(pictures)
    waits = ", ".join(f"{wait:.1f} s" for wait in seen.waits_s)
    return (
        f"| {pictures:,} | {target:g} | {waits} | {'yes' if seen.keeps_bounds else '**no**'} "
        f"| {seen.mean_workers:.1f} | {seen.most_workers} | {seen.load:.0%} |"
    )


HEADER = """\
| pictures a day | target | p95 wait: urgent, high, normal | within 2, 5, 10 s | workers, mean | at most | load, mean |
| ---: | ---: | --- | --- | ---: | ---: | ---: |"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m devtools.autoscaling", description="Simulate what a target of lag per worker does."
    )
    parser.add_argument("targets", type=float, nargs="*", default=TARGETS, help="lag per worker; one row each")
    options = parser.parse_args(arguments)
    print(HEADER)
    for pictures, policy in DEMANDS:
        for target in options.targets:
            print(row(pictures, policy, target), flush=True)


if __name__ == "__main__":
    main()
