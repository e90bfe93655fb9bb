"""How long requests wait, by queueing theory. Pure.

Without a dispatcher a request's partition decides which worker serves it, and no worker takes work from another. The
fleet is then not one queue with many servers, but many queues with one server each. With a dispatcher it is one queue:
a request waits only while all workers are busy.

Arrivals are Poisson and each picture takes the same time, so a queue with one server is an M/D/1 queue with preemptive
priorities. The mean wait for the first step in lane k (Kleinrock, Queueing Systems II, 3.6; Pollaczek-Khinchine for a
single lane) is

    W_k = (s/2) · σ_k / ((1 - σ_{k-1}) (1 - σ_k))

where s is the time per picture and σ_k the load of the lanes up to k. Here σ_k is also the share that has to wait at
all. With c servers Erlang's C (the share that waits in M/M/c) takes its place, and those who wait are served c times as
fast:

    W_k = (s/2c) · C(c, σ_k) / ((1 - σ_{k-1}) (1 - σ_k))

The tail is assumed to be exponential, which is exact in the limit of busy servers. The model leaves out the guaranteed
share (it helps normal requests at the expense of the others), calls that small pictures share (rows start earlier and
end later than one after the other), failures and rebalances. `simulated.py` compares it with a simulation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Shares of urgent, high and normal requests, as in the scheduling benchmark.
SHARES = (0.1, 0.3, 0.6)
# Highest acceptable p95 waits of urgent, high and normal requests in seconds; the alerts use the same bounds.
BOUNDS_S = (2.0, 5.0, 10.0)
QUANTILE = 0.95


def mean_waits(
    per_second: float, service_s: float, shares: Sequence[float] = SHARES, servers: int = 1
) -> tuple[float, ...]:
    """Return the mean wait for the first step in a queue with `servers` workers, by lane; infinite when overloaded."""
    waits = []
    before = 0.0
    for share in shares:
        load = before + per_second * share * service_s / servers
        waiting = share_that_waits(load, servers)
        waits.append(math.inf if load >= 1 else service_s / 2 / servers * waiting / ((1 - before) * (1 - load)))
        before = load
    return tuple(waits)


def quantile_waits(
    per_second: float,
    service_s: float,
    quantile: float = QUANTILE,
    shares: Sequence[float] = SHARES,
    servers: int = 1,
) -> tuple[float, ...]:
    """Like `mean_waits`, but return a quantile: P(W > t) ≈ C · exp(-t C / W), where C is the share that waits."""
    waits = []
    load = 0.0
    for share, mean in zip(shares, mean_waits(per_second, service_s, shares, servers), strict=True):
        load += per_second * share * service_s / servers
        waiting = share_that_waits(load, servers)
        # Below the smallest float nobody waits.
        tail = mean / waiting * math.log(waiting / (1 - quantile)) if 1 - quantile < waiting < 1 else 0.0
        waits.append(tail if load < 1 else mean)
    return tuple(waits)


def share_that_waits(load: float, servers: int) -> float:
    """Return the share of requests that find all workers busy: Erlang's C, which is `load` itself for one worker."""
    if load >= 1:
        return 1.0
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = load * servers * blocked / (count + load * servers * blocked)
    return blocked / (1 - load + load * blocked)


def requests_per_worker(load: float, servers: int, service_s: float) -> float:
    """Return the mean number of requests in the fleet per worker, those being drawn included (Little's law).

    As if none was parked for a higher lane, which adds a little.
    """
    per_second = load * servers / service_s
    [wait] = mean_waits(per_second, service_s, shares=(1.0,), servers=servers)
    return load + per_second * wait / servers
