"""From images a day to GPUs, partitions and dollars: a queueing model of many workers. Pure.

A request's partition decides its worker, and no worker takes another's work, so a fleet is not one queue with many
servers but many queues with one server each. With Poisson arrivals and a fixed time per picture, each is an M/D/1
queue with preemptive priorities; the mean wait for the first step of class k (Kleinrock, Queueing Systems II, 3.6;
Pollaczek-Khinchine for one class) is

    W_k = (s/2) · σ_k / ((1 - σ_{k-1}) (1 - σ_k))

where s is the time per picture and σ_k the load of classes up to k. Its tail is taken as exponential, which is exact
in the limit of a busy server. Left out: the guaranteed share (it helps normal requests at the others' cost), batches
(rows start earlier and end later than in turn), failures and rebalances.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

HOURS = 24
DAY_S = 86_400.0
# Urgent, high, normal, as in the scheduling bench.
SHARES = (0.1, 0.3, 0.6)
# The upper ends of the service guide's ranges, which the alerts use, too.
BOUNDS_S = (2.0, 5.0, 10.0)
QUANTILE = 0.95
MAX_LOAD = 0.9
PARTITIONS_PER_GPU = 2
SMALLEST_PARTITIONS = 12


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device: seconds for one picture when it does nothing else, and dollars per hour."""

    seconds_per_picture: float
    hourly_usd: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A fleet for a demand. Waits are the p95 of the busiest worker at the peak, in seconds, by class."""

    gpus: int
    partitions: int
    load: float
    waits_s: tuple[float, ...]
    usd_per_day: float
    usd_per_picture: float


def mean_waits(per_second: float, service_s: float, shares: Sequence[float] = SHARES) -> tuple[float, ...]:
    """Mean wait for the first step by class at one worker; infinite for a class whose load cannot be served."""
    waits = []
    before = 0.0
    for share in shares:
        load = before + per_second * share * service_s
        waits.append(math.inf if load >= 1 else service_s / 2 * load / ((1 - before) * (1 - load)))
        before = load
    return tuple(waits)


def quantile_waits(
    per_second: float, service_s: float, quantile: float = QUANTILE, shares: Sequence[float] = SHARES
) -> tuple[float, ...]:
    """As `mean_waits`, but a quantile: P(W > t) ≈ σ · exp(-t σ / W), since a share 1 - σ does not wait at all."""
    waits = []
    load = 0.0
    for share, mean in zip(shares, mean_waits(per_second, service_s, shares), strict=True):
        load += per_second * share * service_s
        waits.append(mean / load * max(0.0, math.log(load / (1 - quantile))) if 0 < load < 1 else mean)
    return tuple(waits)


def busiest_share(partitions: int, gpus: int) -> float:
    """The share of all requests that the worker with the most partitions gets."""
    return math.ceil(partitions / gpus) / partitions


def partitions_for(gpus: int) -> int:
    """Per request topic: two for every GPU, so that the loss of one leaves nobody with twice the work."""
    return max(SMALLEST_PARTITIONS, PARTITIONS_PER_GPU * gpus)


def gpus_for(per_second: float, gpu: Gpu, partitions: int | None = None) -> int:
    """The fewest GPUs whose busiest one keeps every class's p95 wait within its bound, and its load below 90 %.

    Args:
        partitions: of each request topic, where it is given already; more GPUs than that get no work.

    Raises:
        ValueError: no number of GPUs will do with these partitions.
    """
    count = max(1, math.ceil(per_second * gpu.seconds_per_picture / MAX_LOAD))
    while not _keeps_bounds(per_second, gpu, count, partitions or partitions_for(count)):
        count += max(1, count // 500)
        if partitions is not None and count > partitions:
            raise ValueError(f"{partitions} partitions are too few for {per_second:g} requests a second")
    return count


def _keeps_bounds(per_second: float, gpu: Gpu, count: int, partitions: int) -> bool:
    own = per_second * busiest_share(partitions, count)
    waits = quantile_waits(own, gpu.seconds_per_picture)
    within = all(wait <= bound for wait, bound in zip(waits, BOUNDS_S, strict=True))
    return within and own * gpu.seconds_per_picture <= MAX_LOAD


def day_profile(peak_factor: float) -> tuple[float, ...]:
    """A day's hours as multiples of the mean: a sine whose peak is `peak_factor`, at most 2."""
    if not 1 <= peak_factor <= 2:
        raise ValueError("a sine's peak is between one and two times its mean")
    return tuple(1 + (peak_factor - 1) * math.sin(2 * math.pi * (hour - 12) / HOURS) for hour in range(HOURS))


def plan(pictures_per_day: float, gpu: Gpu, peak_factor: float = 2.0, *, scaled: bool = False) -> Plan:
    """Size a fleet for the peak hour; `scaled` pays each hour only for the GPUs that the hour needs."""
    mean = pictures_per_day / DAY_S
    peak = mean * peak_factor
    count = gpus_for(peak, gpu)
    partitions = partitions_for(count)
    own = peak * busiest_share(partitions, count)
    rates = [mean * factor for factor in day_profile(peak_factor)]
    # Partitions stay as they are while the fleet shrinks and grows.
    hours = [min(count, gpus_for(rate, gpu, partitions)) for rate in rates] if scaled else [count] * HOURS
    usd = sum(hours) * gpu.hourly_usd
    waits = quantile_waits(own, gpu.seconds_per_picture)
    return Plan(count, partitions, own * gpu.seconds_per_picture, waits, usd, usd / pictures_per_day)


def backlog(rates: Sequence[float], served: Sequence[float], step_s: float, start: float = 0.0) -> list[float]:
    """Requests that wait at the end of each step: what comes in beyond what goes out, never below zero.

    This is lag in an overload, where the flow decides and chance does not: `rates` and `served` are per second.
    """
    levels = []
    level = start
    for coming, going in zip(rates, served, strict=True):
        level = max(0.0, level + (coming - going) * step_s)
        levels.append(level)
    return levels


def catch_up_s(behind: float, per_second: float, gpus: int, gpu: Gpu) -> float:
    """Seconds until a lag of `behind` requests is worked off; infinite where more comes in than goes out."""
    spare = gpus / gpu.seconds_per_picture - per_second
    return math.inf if spare <= 0 else behind / spare


def table(gpu: Gpu, peak_factor: float, days: Sequence[int]) -> str:
    """The plans for several demands, in Markdown."""
    lines = [
        "| pictures a day | GPUs at the peak | partitions per topic | p95 wait: urgent, high, normal "
        "| $ a day, fixed | $ a day, scaled | $ a picture, scaled |",
        "| ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for day in days:
        fixed, scaled = plan(day, gpu, peak_factor), plan(day, gpu, peak_factor, scaled=True)
        waits = ", ".join(f"{wait:.1f} s" for wait in fixed.waits_s)
        lines.append(
            f"| {day:,} | {fixed.gpus:,} | {fixed.partitions:,} | {waits} "
            f"| {fixed.usd_per_day:,.2f} | {scaled.usd_per_day:,.2f} | {scaled.usd_per_picture:.5f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table for a GPU of one's own."""
    parser = argparse.ArgumentParser(prog="python -m devtools.capacity", description="size a fleet of workers")
    parser.add_argument("--seconds", type=float, default=3.0, help="per picture on an otherwise idle GPU")
    parser.add_argument("--hourly-usd", type=float, default=0.40, help="price of a GPU")
    parser.add_argument("--peak", type=float, default=2.0, help="the busiest hour in multiples of the mean, 1 to 2")
    parser.add_argument("days", type=int, nargs="*", default=DAYS, help="pictures a day")
    options = parser.parse_args(arguments)
    print(table(Gpu(options.seconds, options.hourly_usd), options.peak, options.days))


DAYS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000)


if __name__ == "__main__":
    main()
