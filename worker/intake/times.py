"""Which of the times that others send can be true. Pure."""

from __future__ import annotations

# Kafka keeps a week by default and a few months where somebody is generous. A record time or a requested_at outside of
# this window around now is a broken clock or a placeholder (-1, 0, 0001-01-01), not a time.
OLDEST_S = 366 * 24 * 3600.0
NEWEST_S = 24 * 3600.0


def plausible(moment: float, now: float) -> float | None:
    """`moment`, or None where it cannot be when a request was made that arrives `now`; epoch seconds both."""
    return moment if now - OLDEST_S <= moment <= now + NEWEST_S else None
