"""The capacity model, compared with a discrete-event simulation that does not use its formulas."""

from __future__ import annotations

import heapq
import math
import random
import re
from typing import cast

import numpy as np
import pytest

from devtools.capacity import (
    BOUNDS_S,
    DAYS,
    QUANTILE,
    SHARES,
    Gpu,
    backlog,
    busiest_share,
    catch_up_s,
    day_profile,
    gpus_for,
    mean_waits,
    partitions_for,
    plan,
    quantile_waits,
    table,
)
from tests.deploy.tools import ROOT
from worker.engine.cost import Group, Stage
from worker.engine.schedule.policy import Policy
from worker.engine.schedule.rows import Segment
from worker.engine.schedule.scheduler import StepScheduler
from worker.job import Lane

RTX_4090 = Gpu(seconds_per_picture=3.0, hourly_usd=0.40)


def simulate(workers: int, per_second: float, service_s: float, jobs: int, seed: int = 7) -> list[list[float]]:
    """Waits for the first service by class: random partitions, one server each, preemptive priorities."""
    rng = random.Random(seed)
    arrivals: list[list[tuple[float, int]]] = [[] for _ in range(workers)]
    now = 0.0
    for _ in range(jobs):
        now += rng.expovariate(per_second)
        lane = rng.choices(range(len(SHARES)), SHARES)[0]
        arrivals[rng.randrange(workers)].append((now, lane))
    waits: list[list[float]] = [[] for _ in SHARES]
    for own in arrivals:
        for lane, wait in serve(own, service_s):
            waits[lane].append(wait)
    return waits


def serve(arrivals: list[tuple[float, int]], service_s: float) -> list[tuple[int, float]]:
    """One server: the most urgent job first, first come first served within a class, and the rest parked."""
    waiting: list[tuple[int, float, float]] = []  # class, arrival, seconds still to do
    begun: set[tuple[int, float]] = set()
    waits: list[tuple[int, float]] = []
    clock, index = 0.0, 0
    while index < len(arrivals) or waiting:
        if not waiting:
            clock = max(clock, arrivals[index][0])
        while index < len(arrivals) and arrivals[index][0] <= clock:
            at, lane = arrivals[index]
            heapq.heappush(waiting, (lane, at, service_s))
            index += 1
        lane, at, left = heapq.heappop(waiting)
        if (lane, at) not in begun:
            begun.add((lane, at))
            waits.append((lane, clock - at))
        until = min(clock + left, arrivals[index][0] if index < len(arrivals) else math.inf)
        if until < clock + left:
            heapq.heappush(waiting, (lane, at, left - (until - clock)))
        clock = until
    return waits


def scheduled(steps: int, load: float, jobs: int, seed: int = 5) -> list[list[float]]:
    """Waits for the first step by lane, in steps, of the worker's own step scheduler with calls of one row."""
    group = Group(Stage.BASE, 128, 128, samples=2)
    scheduler = StepScheduler(Policy(share=0.0))
    rng = random.Random(seed)
    arrived: dict[int, tuple[Lane, float]] = {}
    waits: list[list[float]] = [[] for _ in SHARES]
    clock, following, begun = 0.0, 0.0, set[int]()
    while len(arrived) < jobs or len(scheduler):
        if not len(scheduler):
            clock = max(clock, following)
        while following <= clock and len(arrived) < jobs:
            key, lane = len(arrived), rng.choices(list(Lane), SHARES)[0]
            arrived[key] = lane, following
            scheduler.submit(key, lane, [Segment(group, steps)], following)
            following += rng.expovariate(load / steps)
        [key] = batch = cast("tuple[int]", scheduler.choose(clock))
        if key not in begun:
            begun.add(key)
            lane, at = arrived[key]
            waits[lane].append(clock - at)
        clock += 1.0
        scheduler.advance(batch)
    return waits


class TestWaits:
    @pytest.mark.parametrize("load", [0.5, 0.7, 0.85])
    def test_mean_waits_by_class_are_those_of_the_simulation(self, load: float) -> None:
        workers, service_s = 20, 3.0
        per_second = load * workers / service_s
        simulated = simulate(workers, per_second, service_s, jobs=120_000)
        expected = mean_waits(per_second / workers, service_s)
        for waits, model in zip(simulated, expected, strict=True):
            assert sum(waits) / len(waits) == pytest.approx(model, rel=0.12, abs=0.02)

    @pytest.mark.parametrize("load", [0.6, 0.8])
    def test_tails_are_near_those_of_the_simulation(self, load: float) -> None:
        workers, service_s = 20, 3.0
        per_second = load * workers / service_s
        simulated = simulate(workers, per_second, service_s, jobs=120_000, seed=11)
        for waits, model in zip(simulated, quantile_waits(per_second / workers, service_s), strict=True):
            seen = sorted(waits)[int(QUANTILE * len(waits))]
            # An exponential tail is short of a seldom busy server's by at most the job that is being served.
            assert model == pytest.approx(seen, rel=0.2, abs=0.45 * service_s)

    def test_thousands_of_gpus_are_thousands_of_queues(self) -> None:
        """No class, so that Lindley's recursion can serve 3,000 workers at once: 1.5 million requests."""
        workers, each, service_s, load = 3_000, 500, 3.0, 0.8
        rng = np.random.default_rng(3)
        wait = np.zeros(workers)
        total, counted = 0.0, 0
        for number in range(each):
            gap = rng.exponential(service_s / load, workers)
            wait = np.maximum(0.0, wait + service_s - gap)
            if number >= each // 5:
                total, counted = total + float(wait.sum()), counted + workers
        [model] = mean_waits(load / service_s, service_s, shares=(1.0,))
        assert total / counted == pytest.approx(model, rel=0.05)
        # As one queue with 3,000 servers nobody would wait: it is the partitions that make the difference.
        assert model > 1.5 * service_s

    def test_the_step_scheduler_with_one_row_a_call_is_the_models_server(self) -> None:
        """As at 1024² on any card; the share of overdue lanes, which the model leaves out, is off."""
        steps, load = 30, 0.7
        for waits, model in zip(scheduled(steps, load, jobs=6_000), mean_waits(load / steps, steps), strict=True):
            # A newcomer also waits for the end of the step that runs, half a step in the mean.
            assert sum(waits) / len(waits) == pytest.approx(model + 0.5 * load, rel=0.15, abs=0.6)

    def test_a_class_that_cannot_be_served_waits_for_ever_and_those_above_do_not(self) -> None:
        urgent, high, normal = mean_waits(0.4, 3.0)
        assert normal == math.inf
        assert urgent < high < math.inf

    def test_an_idle_worker_lets_nobody_wait(self) -> None:
        assert mean_waits(0.0, 3.0) == (0.0, 0.0, 0.0)
        assert quantile_waits(0.0, 3.0) == (0.0, 0.0, 0.0)


class TestSizing:
    @pytest.mark.parametrize("per_second", [0.05, 1.0, 40.0, 900.0])
    def test_it_is_the_smallest_fleet_that_keeps_the_bounds(self, per_second: float) -> None:
        count = gpus_for(per_second, RTX_4090)

        def worst(gpus: int) -> tuple[float, ...]:
            return quantile_waits(per_second * busiest_share(partitions_for(gpus), gpus), 3.0)

        assert all(wait <= bound for wait, bound in zip(worst(count), BOUNDS_S, strict=True))
        if count > 1:
            fewer = int(count * 0.95) if count > 20 else count - 1
            assert any(wait > bound for wait, bound in zip(worst(fewer), BOUNDS_S, strict=True))

    def test_the_planned_fleet_keeps_its_bounds_in_the_simulation(self) -> None:
        peak = 2 * 200_000 / 86_400
        count = gpus_for(peak, RTX_4090)
        waits = simulate(count, peak, 3.0, jobs=100_000)
        for lane, bound in zip(waits, BOUNDS_S, strict=True):
            assert sorted(lane)[int(QUANTILE * len(lane))] <= bound * 1.15

    def test_partitions_suffice_and_stay_even(self) -> None:
        for gpus in (1, 5, 12, 100, 1_284, 6_000):
            partitions = partitions_for(gpus)
            assert partitions >= gpus
            assert busiest_share(partitions, gpus) * gpus <= 1.5

    def test_too_few_partitions_are_refused(self) -> None:
        with pytest.raises(ValueError, match="12 partitions are too few"):
            gpus_for(20.0, RTX_4090, partitions=12)

    def test_scaling_by_the_hour_is_cheaper_and_a_flat_day_gains_nothing(self) -> None:
        assert plan(1_000_000, RTX_4090, scaled=True).usd_per_day < 0.7 * plan(1_000_000, RTX_4090).usd_per_day
        flat = [plan(1_000_000, RTX_4090, 1.0, scaled=scaled).usd_per_day for scaled in (False, True)]
        assert flat[0] == pytest.approx(flat[1])

    def test_the_day_has_its_mean_and_its_peak(self) -> None:
        hours = day_profile(1.8)
        assert sum(hours) / len(hours) == pytest.approx(1)
        assert max(hours) == pytest.approx(1.8)
        with pytest.raises(ValueError, match="between one and two"):
            day_profile(3)


class TestLag:
    def test_an_overload_builds_a_backlog_as_the_simulation_does(self) -> None:
        """A peak hour of 1.5 times what ten GPUs can do, then an hour of half of it."""
        workers, service_s = 10, 3.0
        can = workers / service_s
        rates = [1.5 * can] * 60 + [0.5 * can] * 120
        levels = backlog(rates, [can] * len(rates), step_s=60)
        rng = random.Random(5)
        queues = [0.0] * workers  # seconds of work at each
        seen = []
        for rate in rates:
            at = rng.expovariate(rate)
            while at < 60:
                queues[rng.randrange(workers)] += service_s
                at += rng.expovariate(rate)
            queues = [max(0.0, work - 60) for work in queues]
            seen.append(sum(queues) / service_s)
        assert max(levels) == pytest.approx(0.5 * can * 3600)
        assert max(seen) == pytest.approx(max(levels), rel=0.05)
        assert levels[-1] == pytest.approx(0)
        assert seen[-1] < 0.03 * max(seen)

    def test_catching_up_takes_what_is_to_spare(self) -> None:
        assert catch_up_s(600, 2.0, 9, RTX_4090) == pytest.approx(600)
        assert catch_up_s(600, 3.0, 9, RTX_4090) == math.inf


def test_the_table_in_the_docs_is_what_the_module_prints() -> None:
    text = (ROOT / "docs/capacity.md").read_text()
    assert table(RTX_4090, 2.0, DAYS) in text
    assert re.search(r"python -m devtools\.capacity", text)
