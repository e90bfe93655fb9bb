"""The smallest fleet for a demand, and what it costs, without a dispatcher and with one. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from devtools.bench.fleet.simulate import WAY_S
from devtools.capacity.waits import BOUNDS_S, quantile_waits

HOURS = 24
DAY_S = 86_400.0
# The model's limit for a worker with a queue of its own, whatever the bounds allow.
MAX_LOAD = 0.9
# The same for one queue: the bounds alone allow 99 % with 128 workers. The rest is for what the model leaves out, such
# as a peak that is some percent higher than expected, and workers that restart.
MAX_LOAD_DISPATCH = 0.95
# From a request by the dispatcher to the worker, in seconds: the slowest way that the simulation knows.
HOP_S = WAY_S[1]
PARTITIONS_PER_GPU = 2
SMALLEST_PARTITIONS = 12


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device: seconds per picture when it does nothing else, and price in dollars per hour."""

    seconds_per_picture: float
    hourly_usd: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A fleet for a demand. `load` and p95 waits in seconds, by lane, are those of the busiest worker at the peak.

    `partitions`: of each topic that the workers read, so of the work topics with a dispatcher.
    """

    gpus: int
    partitions: int
    load: float
    waits_s: tuple[float, ...]
    usd_per_day: float
    usd_per_picture: float


def busiest_share(partitions: int, gpus: int) -> float:
    """Return the share of all requests that the worker with the most partitions receives."""
    return math.ceil(partitions / gpus) / partitions


def partitions_for(gpus: int) -> int:
    """Return the partitions per request topic: two per GPU, so that losing a GPU doubles no other GPU's load."""
    return max(SMALLEST_PARTITIONS, PARTITIONS_PER_GPU * gpus)


def work_partitions_for(gpus: int) -> int:
    """Return the partitions per work topic: the dispatcher chooses the worker, so one for each is enough."""
    return max(SMALLEST_PARTITIONS, gpus)


def gpus_for(per_second: float, gpu: Gpu, partitions: int | None = None) -> int:
    """Return the smallest number of GPUs whose busiest one keeps every lane's p95 wait bound, at a load below 90 %.

    Args:
        partitions: number of partitions of each request topic, if it is fixed; further GPUs would get no work.

    Raises:
        ValueError: no number of GPUs suffices with these partitions.
    """

    def suffices(count: int) -> bool:
        if partitions is not None and count > partitions:
            raise ValueError(f"{partitions} partitions are too few for {per_second:g} requests per second")
        load, waits = _busiest(per_second, gpu, count, partitions or partitions_for(count))
        return load <= MAX_LOAD and _within_bounds(waits)

    return _smallest(suffices, per_second * gpu.seconds_per_picture / MAX_LOAD)


def gpus_with_dispatch(per_second: float, gpu: Gpu) -> int:
    """Return the smallest number of GPUs that keeps every lane's p95 wait bound as one queue, at a load below 95 %."""

    def suffices(count: int) -> bool:
        load, waits = _one_queue(per_second, gpu, count)
        return load <= MAX_LOAD_DISPATCH and _within_bounds(waits)

    return _smallest(suffices, per_second * gpu.seconds_per_picture / MAX_LOAD_DISPATCH)


def day_profile(peak_factor: float) -> tuple[float, ...]:
    """Return the load of each hour of a day as a multiple of the mean: a sine with the peak `peak_factor`, 1 to 2."""
    if not 1 <= peak_factor <= 2:
        raise ValueError("the peak must be between one and two times the mean")
    return tuple(1 + (peak_factor - 1) * math.sin(2 * math.pi * (hour - 12) / HOURS) for hour in range(HOURS))


def plan(
    pictures_per_day: float, gpu: Gpu, peak_factor: float = 2.0, *, scaled: bool = False, dispatch: bool = False
) -> Plan:
    """Size a fleet for the peak hour; with `scaled`, each hour costs only the GPUs that this hour needs."""
    mean = pictures_per_day / DAY_S
    peak = mean * peak_factor
    rates = [mean * factor for factor in day_profile(peak_factor)] if scaled else [peak] * HOURS
    if dispatch:
        count = gpus_with_dispatch(peak, gpu)
        partitions = work_partitions_for(count)
        load, waits = _one_queue(peak, gpu, count)
        hours = [gpus_with_dispatch(rate, gpu) for rate in rates]
    else:
        count = gpus_for(peak, gpu)
        partitions = partitions_for(count)
        load, waits = _busiest(peak, gpu, count, partitions)
        # The number of partitions does not change while the fleet is scaled.
        hours = [min(count, gpus_for(rate, gpu, partitions)) for rate in rates]
    usd = sum(hours) * gpu.hourly_usd
    return Plan(count, partitions, load, waits, usd, usd / pictures_per_day)


def _busiest(per_second: float, gpu: Gpu, count: int, partitions: int) -> tuple[float, tuple[float, ...]]:
    own = per_second * busiest_share(partitions, count)
    return own * gpu.seconds_per_picture, quantile_waits(own, gpu.seconds_per_picture)


def _one_queue(per_second: float, gpu: Gpu, count: int) -> tuple[float, tuple[float, ...]]:
    waits = quantile_waits(per_second, gpu.seconds_per_picture, servers=count)
    return per_second * gpu.seconds_per_picture / count, tuple(wait + HOP_S for wait in waits)


def _within_bounds(waits: tuple[float, ...]) -> bool:
    return all(wait <= bound for wait, bound in zip(waits, BOUNDS_S, strict=True))


def _smallest(suffices: Callable[[int], bool], at_least: float) -> int:
    count = max(1, math.ceil(at_least))
    while not suffices(count):
        count += max(1, count // 500)
    return count
