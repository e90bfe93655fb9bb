"""KEDA's and the HPA's numbers, and what they decide. Pure."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace

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
    # KEDA's `cooldownPeriod`: from the last lag until all workers go, where `min_workers` is 0.
    cooldown_s: float = 300.0

    @property
    def partitions(self) -> int:
        """Of each request topic: two for each worker that there can be."""
        return 2 * self.max_workers


# The overlays without and with many GPUs.
SMALL = Policy()
LARGE = Policy(min_workers=4, max_workers=48, down_percent=5)
# `many-gpus` behind dispatchers (k8s/dispatch): one queue, so more may wait for each worker. A larger target only makes
# requests wait longer and the number of workers swing: a day costs no less (docs/capacity.md).
LARGE_DISPATCH = replace(LARGE, target=2.0)
# With no worker while nothing waits (k8s/scale-to-zero).
ZERO_DISPATCH = replace(LARGE_DISPATCH, min_workers=0, cooldown_s=900.0)
# A dispatcher sends a worker a request when it has room for one, so each is a transaction of its own in its partition.
# Its marker takes an offset, and lag is a difference of offsets; tests/sim/test_fleet.py counts them.
WORK_OFFSETS_PER_REQUEST = 2


@dataclass(slots=True)
class Autoscaler:
    """The HPA's decision (kube-controller-manager, `horizontal.go`), without a clock of its own."""

    policy: Policy
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _changes: deque[tuple[float, int]] = field(default_factory=deque)
    _active: float = -math.inf

    def decide(self, now: float, lag: float, workers: int) -> int:
        """The number of workers that it sets, when there are `workers`."""
        policy = self.policy
        if lag > 0:
            self._active = now
        # KEDA itself starts the first worker and removes all; the HPA knows of no zero.
        if policy.min_workers == 0 and now - self._active >= policy.cooldown_s:
            self._wanted.clear()
            self._changes.clear()
            return 0
        if workers == 0:
            return 1
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
        chosen = min(max(chosen, policy.min_workers, 1), policy.max_workers)
        if chosen != workers:
            self._changes.append((now, chosen - workers))
        return chosen

    def _changed(self, since: float) -> int:
        return sum(change for at, change in self._changes if at > since)
