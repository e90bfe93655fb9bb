"""Where to go on when a next offset is not there."""

from __future__ import annotations

import pytest

from worker.intake.log_bounds import Bounds
from worker.intake.resets import Cause, GoOn, Lost, divergence, go_on

# As librdkafka 2.16 said it, of a broker whose log had lost its last five records.
TRUNCATION = (
    "Partition log truncation detected at offset 10 (leader epoch 0): broker end offset is 5 (offset leader epoch 0). "
    "Reset to INVALID.: Local: Partition log truncation detected (broker 1)"
)


def test_librdkafka_says_from_where_on_the_log_is_another() -> None:
    assert divergence(TRUNCATION) == 5
    assert divergence(TRUNCATION.replace("offset is 5", "offset is -1")) == -1
    assert divergence("fetch failed due to requested offset not available on the broker: out of range") is None


@pytest.mark.parametrize(
    ("lost", "bounds", "same_topic", "expected"),
    [
        # Retention took records that nobody had read.
        (Lost(5), Bounds(8, 20), None, GoOn(8, Cause.RETENTION)),
        (Lost(5, 3), Bounds(8, 20, 3), True, GoOn(8, Cause.RETENTION)),
        (Lost(5), Bounds(8, 8), True, GoOn(8, Cause.RETENTION)),
        # The log is shorter than what was read, or was when it began to grow again.
        (Lost(10), Bounds(0, 5), None, GoOn(5, Cause.LOST_END)),
        (Lost(10, 0), Bounds(0, 5, 2), None, GoOn(5, Cause.LOST_END)),
        (Lost(10, 0, 5), Bounds(0, 16, 2), True, GoOn(5, Cause.LOST_END)),
        (Lost(10, 0, 5), Bounds(0, 16, 2), None, GoOn(5, Cause.LOST_END)),
        (Lost(10, 0, 5), Bounds(7, 16, 2), True, GoOn(7, Cause.LOST_END)),
        (Lost(10, 4, -1), Bounds(0, 16, 5), True, GoOn(10, Cause.LOST_END)),
        # Another topic of the same name: by its id, or by an epoch that is lower or as low.
        (Lost(10), Bounds(0, 5), False, GoOn(0, Cause.RECREATED)),
        (Lost(10), Bounds(2, 50), False, GoOn(2, Cause.RECREATED)),
        (Lost(10, 0), Bounds(0, 5, 0), None, GoOn(0, Cause.RECREATED)),
        (Lost(10, 3), Bounds(0, 5, 0), None, GoOn(0, Cause.RECREATED)),
        (Lost(10, 3, -1), Bounds(0, 50, 0), None, GoOn(0, Cause.RECREATED)),
        (Lost(10, 0, 5), Bounds(0, 5, 0), None, GoOn(0, Cause.RECREATED)),
        # Whose id was learnt too late: a log does not lose its end without a new leader.
        (Lost(10, 0), Bounds(0, 5, 0), True, GoOn(0, Cause.RECREATED)),
        # The offset is there after all.
        (Lost(10), Bounds(0, 10), None, GoOn(10, Cause.NOTHING)),
        (Lost(10, 3), Bounds(0, 12, 3), True, GoOn(10, Cause.NOTHING)),
    ],
)
def test_what_has_happened_is_told_from_the_bounds(
    lost: Lost, bounds: Bounds, same_topic: bool | None, expected: GoOn
) -> None:
    assert go_on(lost, bounds, same_topic=same_topic) == expected
