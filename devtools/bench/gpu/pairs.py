"""Two ways of drawing, timed in turns, so that a change of the machine's speed affects both alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

Draw = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Seconds of both, in the order of the rounds."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios, ours to theirs."""
        return median(mine / other for mine, other in zip(self.ours, self.theirs, strict=True))


def in_turns(ours: Draw, theirs: Draw, rounds: int) -> Pairs:
    """Call both once without counting, since they may compile, then `rounds` times; who begins changes each time."""
    ours()
    theirs()
    pairs = Pairs([], [])
    for number in range(rounds):
        if number % 2:
            pairs.theirs.append(theirs())
            pairs.ours.append(ours())
        else:
            pairs.ours.append(ours())
            pairs.theirs.append(theirs())
    return pairs
