"""Medians, ranges, and whether two runs differ by more than their noise. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

# A ratio has moved if chance would part the two runs as far in at most one of a hundred comparisons of equal ones...
CHANCE = 0.01
# ... and if its median has changed by as much: between two runs a machine changes more than within one.
SMALLEST_CHANGE = 0.03
# With fewer pairs no order of the values is as unlikely as CHANCE.
LEAST_PAIRS = 5


@dataclass(frozen=True, slots=True)
class Summary:
    """The median of a figure's pairs, and the lowest and highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Raises ValueError where there are no values."""
        if not values:
            raise ValueError("there is no median of nothing")
        return cls(median(values), min(values), max(values))


def moved(before: Sequence[float], after: Sequence[float]) -> bool | None:
    """Return whether a figure has changed by more than its noise; None where the pairs are too few to tell."""
    if min(len(before), len(after)) < LEAST_PAIRS:
        return None
    old, new = median(before), median(after)
    return abs(new - old) > SMALLEST_CHANGE * abs(old) and chance(before, after) <= CHANCE


def chance(before: Sequence[float], after: Sequence[float]) -> float:
    """Return how probable it is that the values of equal runs come apart at least as far as these, in any direction.

    The exact rank-sum test (Wilcoxon 1945), which assumes no distribution; equal values share their mean rank.
    """
    ranks = _doubled_ranks([*before, *after])
    observed = sum(ranks[len(before) :])
    expected = len(after) * (len(ranks) + 1)
    sums = _sums(ranks, len(after))
    apart = sum(count for total, count in sums.items() if abs(total - expected) >= abs(observed - expected))
    return apart / sums.total()


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value, which is whole where several share their mean rank."""
    below = [sum(other < value for other in values) for value in values]
    equal = [sum(other == value for other in values) for value in values]
    return [2 * low + same + 1 for low, same in zip(below, equal, strict=True)]


def _sums(ranks: Sequence[int], size: int) -> Counter[int]:
    """How many choices of `size` of the ranks have which sum."""
    choices: list[Counter[int]] = [Counter({0: 1}), *(Counter[int]() for _ in range(size))]
    for rank in ranks:
        for chosen in range(size, 0, -1):
            for total, count in choices[chosen - 1].items():
                choices[chosen][total + rank] += count
    return choices[size]
