"""Numbers on the command line: each has both bounds, and none of them is NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import typer

N = TypeVar("N", int, float)

INT = 2**31 - 1
LONG = 2**63 - 1
YEAR_S = 366 * 86_400.0
# Far beyond what any worker takes; what a worker's settings allow is the worker's to say.
GUIDANCE = 1e6


def between(low: N, high: N) -> Callable[[N | None], N | None]:
    """A callback for an option; NaN compares with nothing, so that it is refused too.

    Raises:
        typer.BadParameter: the number is outside.
    """

    def check(value: N | None) -> N | None:
        if value is not None and not low <= value <= high:
            raise typer.BadParameter(f"it must be a number from {low:.0f} to {high:.0f}")
        return value

    return check
