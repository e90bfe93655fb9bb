"""Capacity model: from pictures per day to GPUs, partitions and dollars, by queueing theory. Pure.

A request's partition decides which worker serves it, and no worker takes work from another. A fleet is therefore not
one queue with many servers, but many queues with one server each. With Poisson arrivals and a fixed time per picture,
each of them is an M/D/1 queue with preemptive priorities. The mean wait for the first step in lane k (Kleinrock,
Queueing Systems II, 3.6; Pollaczek-Khinchine for a single lane) is

    W_k = (s/2) · σ_k / ((1 - σ_{k-1}) (1 - σ_k))

where s is the time per picture and σ_k the load of the lanes up to k. The tail is assumed to be exponential, which is
exact in the limit of a busy server. The model leaves out the guaranteed share (it helps normal requests at the expense
of the others), calls that small pictures share (rows start earlier and end later than one after the other), failures
and rebalances.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

HOURS = 24
DAY_S = 86_400.0
# Shares of urgent, high and normal requests, as in the scheduling benchmark.
SHARES = (0.1, 0.3, 0.6)
# Highest acceptable p95 waits of urgent, high and normal requests in seconds; the alerts use the same bounds.
BOUNDS_S = (2.0, 5.0, 10.0)
QUANTILE = 0.95
MAX_LOAD = 0.9
PARTITIONS_PER_GPU = 2
SMALLEST_PARTITIONS = 12


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device: seconds per picture when it does nothing else, and price in dollars per hour."""

    seconds_per_picture: float
    hourly_usd: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A fleet for a demand. Waits are the p95 waits of the busiest worker at the peak, in seconds, by lane."""

    gpus: int
    partitions: int
    load: float
    waits_s: tuple[float, ...]
    usd_per_day: float
    usd_per_picture: float


def mean_waits(per_second: float, service_s: float, shares: Sequence[float] = SHARES) -> tuple[float, ...]:
    """Return the mean wait for the first step at one worker, by lane; infinite for a lane that is overloaded."""
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
    """Like `mean_waits`, but return a quantile: P(W > t) ≈ σ · exp(-t σ / W), as a share of 1 - σ does not wait."""
    waits = []
    load = 0.0
    for share, mean in zip(shares, mean_waits(per_second, service_s, shares), strict=True):
        load += per_second * share * service_s
        waits.append(mean / load * max(0.0, math.log(load / (1 - quantile))) if 0 < load < 1 else mean)
    return tuple(waits)


def busiest_share(partitions: int, gpus: int) -> float:
    """Return the share of all requests that the worker with the most partitions receives."""
    return math.ceil(partitions / gpus) / partitions


def partitions_for(gpus: int) -> int:
    """Return the partitions per request topic: two per GPU, so that losing a GPU doubles no other GPU's load."""
    return max(SMALLEST_PARTITIONS, PARTITIONS_PER_GPU * gpus)


def gpus_for(per_second: float, gpu: Gpu, partitions: int | None = None) -> int:
    """Return the smallest number of GPUs whose busiest one keeps every lane's p95 wait bound, at a load below 90 %.

    Args:
        partitions: number of partitions of each request topic, if it is fixed; further GPUs would get no work.

    Raises:
        ValueError: no number of GPUs suffices with these partitions.
    """
    count = max(1, math.ceil(per_second * gpu.seconds_per_picture / MAX_LOAD))
    while not _keeps_bounds(per_second, gpu, count, partitions or partitions_for(count)):
        count += max(1, count // 500)
        if partitions is not None and count > partitions:
            raise ValueError(f"{partitions} partitions are too few for {per_second:g} requests per second")
    return count


def _keeps_bounds(per_second: float, gpu: Gpu, count: int, partitions: int) -> bool:
    own = per_second * busiest_share(partitions, count)
    waits = quantile_waits(own, gpu.seconds_per_picture)
    within = all(wait <= bound for wait, bound in zip(waits, BOUNDS_S, strict=True))
    return within and own * gpu.seconds_per_picture <= MAX_LOAD


def day_profile(peak_factor: float) -> tuple[float, ...]:
    """Return the load of each hour of a day as a multiple of the mean: a sine with the peak `peak_factor`, 1 to 2."""
    if not 1 <= peak_factor <= 2:
        raise ValueError("the peak must be between one and two times the mean")
    return tuple(1 + (peak_factor - 1) * math.sin(2 * math.pi * (hour - 12) / HOURS) for hour in range(HOURS))


def plan(pictures_per_day: float, gpu: Gpu, peak_factor: float = 2.0, *, scaled: bool = False) -> Plan:
    """Size a fleet for the peak hour; with `scaled`, each hour costs only the GPUs that this hour needs."""
    mean = pictures_per_day / DAY_S
    peak = mean * peak_factor
    count = gpus_for(peak, gpu)
    partitions = partitions_for(count)
    own = peak * busiest_share(partitions, count)
    rates = [mean * factor for factor in day_profile(peak_factor)]
    # The number of partitions does not change while the fleet is scaled.
    hours = [min(count, gpus_for(rate, gpu, partitions)) for rate in rates] if scaled else [count] * HOURS
    usd = sum(hours) * gpu.hourly_usd
    waits = quantile_waits(own, gpu.seconds_per_picture)
    return Plan(count, partitions, own * gpu.seconds_per_picture, waits, usd, usd / pictures_per_day)


def backlog(rates: Sequence[float], served: Sequence[float], step_s: float, start: float = 0.0) -> list[float]:
    """Return the number of waiting requests at the end of each step of `step_s` seconds.

    This models lag during an overload, where the difference of `rates` and `served` (both per second) decides, and
    random variation does not matter.
    """
    levels = []
    level = start
    for coming, going in zip(rates, served, strict=True):
        level = max(0.0, level + (coming - going) * step_s)
        levels.append(level)
    return levels


def catch_up_s(behind: float, per_second: float, gpus: int, gpu: Gpu) -> float:
    """Return the seconds until a lag of `behind` requests is worked off; infinite if arrivals exceed the capacity."""
    spare = gpus / gpu.seconds_per_picture - per_second
    return math.inf if spare <= 0 else behind / spare


def table(gpu: Gpu, peak_factor: float, days: Sequence[int]) -> str:
    """Format the plans for several demands as a Markdown table."""
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
    """Print the table for the GPU that the arguments describe."""
    parser = argparse.ArgumentParser(prog="python -m devtools.capacity", description="Size a fleet of workers.")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds per picture on an idle GPU (default 3)")
    parser.add_argument("--hourly-usd", type=float, default=0.40, help="price of a GPU hour in dollars (default 0.40)")
    parser.add_argument(
        "--peak", type=float, default=2.0, help="busiest hour as a multiple of the mean, 1 to 2 (default 2)"
    )
    parser.add_argument("days", type=int, nargs="*", default=DAYS, help="pictures per day; one row of the table each")
    options = parser.parse_args(arguments)
    print(table(Gpu(options.seconds, options.hourly_usd), options.peak, options.days))


DAYS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000)


if __name__ == "__main__":
    main()
