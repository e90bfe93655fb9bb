"""The parts of a time add up."""

from __future__ import annotations

from worker.telemetry.laps import Laps


def test_each_part_has_what_passed_since_the_last() -> None:
    laps = Laps(iter([10.0, 11.5, 14.0, 14.25]).__next__)
    for part in ("load_s", "trial_s", "load_s"):
        laps.end(part)
    assert laps.seconds == {"load_s": 1.75, "trial_s": 2.5}
