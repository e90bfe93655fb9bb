"""Quantiles of waits in bounded memory: a histogram whose buckets grow by two per cent."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

_GROWTH = math.log(1.02)
# All below count as this; all above a month count as a month.
_LEAST_S, _MOST_S = 0.001, 2_592_000.0


@dataclass(slots=True)
class Waits:
    """Waits in seconds; a quantile is off by two per cent at most."""

    buckets: Counter[int] = field(default_factory=Counter)
    count: int = 0
    largest_s: float = 0.0

    def add(self, wait_s: float) -> None:
        """Count one wait."""
        wait_s = min(max(wait_s, _LEAST_S), _MOST_S) if wait_s == wait_s else _MOST_S
        self.buckets[round(math.log(wait_s) / _GROWTH)] += 1
        self.count += 1
        self.largest_s = max(self.largest_s, wait_s)

    def merge(self, other: Waits) -> None:
        """Count another's waits, too."""
        self.buckets.update(other.buckets)
        self.count += other.count
        self.largest_s = max(self.largest_s, other.largest_s)

    def quantile(self, share: float) -> float | None:
        """The wait that `share` of all do not exceed, in seconds; None without any."""
        wanted = math.ceil(share * self.count)
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= max(wanted, 1):
                return min(math.exp(bucket * _GROWTH), self.largest_s)
        return None
