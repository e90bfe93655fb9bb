"""The capacity model, compared with a discrete-event simulation that does not use its formulas."""

from __future__ import annotations

import heapq
import math
import random
import re
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from devtools.bench.fleet.search import STEP
from devtools.bench.fleet.simulate import WAY_S, Fleet, keeps_bounds, with_dispatch, without_dispatch
from devtools.capacity.__main__ import DAYS, WORKERS, main
from devtools.capacity.overload import backlog, catch_up_s
from devtools.capacity.simulated import LEAST_REQUESTS, Limits
from devtools.capacity.sizing import (
    HOP_S,
    MAX_LOAD_DISPATCH,
    Gpu,
    busiest_share,
    day_profile,
    gpus_for,
    gpus_with_dispatch,
    partitions_for,
    plan,
    work_partitions_for,
)
from devtools.capacity.tables import LIMITS_HEADER, dollars, fleets, limit_rows
from devtools.capacity.waits import (
    BOUNDS_S,
    QUANTILE,
    SHARES,
    mean_waits,
    quantile_waits,
    requests_per_worker,
    share_that_waits,
)
from tests.deploy.tools import ROOT
from worker.engine.cost import Group, Stage
from worker.engine.schedule.policy import Policy
from worker.engine.schedule.rows import Segment
from worker.engine.schedule.scheduler import StepScheduler
from worker.job import Lane

RTX_4090 = Gpu(seconds_per_picture=3.0, hourly_usd=0.40)
DOCUMENTED = (ROOT / "docs/capacity.md").read_text()


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


class TestOneQueue:
    """With a dispatcher; the simulation has its policy, its look-ahead and the ways of records and reports."""

    def test_the_share_that_waits_is_erlangs(self) -> None:
        assert share_that_waits(0.7, 1) == pytest.approx(0.7)
        assert share_that_waits(0.5, 2) == pytest.approx(1 / 3)
        assert share_that_waits(0.8, 10) == pytest.approx(0.4092, abs=1e-4)
        assert share_that_waits(1.2, 3) == 1

    @pytest.mark.parametrize(("workers", "load"), [(4, 0.75), (8, 0.85)])
    def test_waits_are_those_of_the_dispatchers_policy(self, workers: int, load: float) -> None:
        service_s = 3.0
        seen = with_dispatch(Fleet((service_s,) * workers, load, requests=15_000), seed=2)
        per_second = load * workers / service_s
        means = mean_waits(per_second, service_s, servers=workers)
        tails = quantile_waits(per_second, service_s, servers=workers)
        for lane, mean, tail in zip(Lane, means, tails, strict=True):
            waits = seen.waits_s[lane]
            assert sum(waits) / len(waits) == pytest.approx(mean + sum(WAY_S) / 2, rel=0.25, abs=0.15), lane
            # The tail is short by at most the picture that is being drawn, as without a dispatcher.
            assert seen.quantile_s(lane) == pytest.approx(tail + HOP_S, rel=0.2, abs=0.45 * service_s), lane

    def test_what_is_in_the_fleet_is_what_littles_law_says(self) -> None:
        # A single M/D/1 queue: ρ + ρ² / (2 (1 - ρ)).
        assert requests_per_worker(0.54, 1, 3.0) == pytest.approx(0.54 + 0.54**2 / 0.92)
        assert requests_per_worker(0.9, 8, 3.0) < requests_per_worker(0.9, 1, 3.0) / 3

    @pytest.mark.parametrize("per_second", [0.05, 1.0, 40.0, 900.0])
    def test_it_is_the_smallest_fleet_that_keeps_the_bounds(self, per_second: float) -> None:
        count = gpus_with_dispatch(per_second, RTX_4090)

        def keeps(gpus: int) -> bool:
            waits = quantile_waits(per_second, 3.0, servers=gpus)
            within = all(wait + HOP_S <= bound for wait, bound in zip(waits, BOUNDS_S, strict=True))
            return within and per_second * 3.0 / gpus <= MAX_LOAD_DISPATCH

        assert keeps(count)
        assert count == 1 or not keeps(count - 1)
        assert work_partitions_for(count) >= count, "a worker without a partition of each work topic gets nothing"

    def test_the_planned_fleet_keeps_its_bounds_in_the_simulation(self) -> None:
        demand = 100_000
        fleet = plan(demand, RTX_4090, dispatch=True)
        seen = with_dispatch(Fleet((3.0,) * fleet.gpus, fleet.load, requests=15_000), seed=3)
        for lane, bound in zip(Lane, BOUNDS_S, strict=True):
            assert seen.quantile_s(lane) <= bound

    @pytest.mark.parametrize("pictures", DAYS)
    def test_it_never_needs_more_gpus(self, pictures: int) -> None:
        for scaled in (False, True):
            with_, without = (plan(pictures, RTX_4090, scaled=scaled, dispatch=on) for on in (True, False))
            assert with_.gpus <= without.gpus
            assert with_.usd_per_day <= without.usd_per_day


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


def documented_limits() -> list[list[int]]:
    """Workers, and the limits without and with a dispatcher, each by the model and as simulated, in percent."""
    table = DOCUMENTED.partition(LIMITS_HEADER)[2].partition("\n\n")[0].splitlines()[1:]
    return [[int(cell.strip(" %").replace(",", "")) for cell in line.strip("|").split("|")] for line in table]


class TestDocs:
    def test_the_tables_are_what_the_command_prints(self, capsys: pytest.CaptureFixture[str]) -> None:
        main([])
        printed = capsys.readouterr().out
        assert printed == f"{fleets(RTX_4090, 2.0, DAYS)}\n\n{dollars(RTX_4090, 2.0, DAYS)}\n"
        for table in printed.split("\n\n"):
            assert f"\n\n{table.strip()}\n\n" in DOCUMENTED
        assert re.search(r"python -m devtools\.capacity", DOCUMENTED)

    def test_the_page_of_dispatch_shows_what_its_command_prints(self, capsys: pytest.CaptureFixture[str]) -> None:
        page = (ROOT / "docs/dispatch.md").read_text()
        [arguments] = re.findall(r"python -m devtools\.capacity (--short [\d ]+)", page)
        main(arguments.split())
        assert f"\n\n{capsys.readouterr().out}\n" in page

    @pytest.mark.parametrize("column", [2, 4], ids=["without", "with"])
    def test_the_limits_are_those_of_the_simulation(self, column: int) -> None:
        """As `limits` finds them, but only there and a step above; the other fleets' are held to the model below."""
        [cells] = [cells for cells in documented_limits() if cells[0] == 8]
        simulate = with_dispatch if column == 4 else without_dispatch
        fleet = Fleet((3.0,) * 8, cells[column] / 100, LEAST_REQUESTS)
        assert keeps_bounds(simulate(fleet, 0), BOUNDS_S)
        assert not keeps_bounds(simulate(replace(fleet, load=fleet.load + STEP), 0), BOUNDS_S)

    def test_a_row_has_a_fleets_limits(self) -> None:
        assert list(limit_rows([Limits(8, 0.54, 0.53, 0.91, 0.9)])) == ["| 8 | 54% | 53% | 91% | 90% |"]

    def test_the_model_is_within_two_points_of_the_simulation(self) -> None:
        rows = documented_limits()
        assert [row[0] for row in rows] == list(WORKERS)
        for workers, without, without_simulated, with_, with_simulated in rows:
            assert abs(without - without_simulated) <= 2, workers
            assert abs(with_ - with_simulated) <= 2, workers
