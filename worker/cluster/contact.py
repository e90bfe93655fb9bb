"""When a broker has last answered the worker's clients, from librdkafka's statistics.

Fetches come every half second on an idle topic, and heartbeats every few seconds where all partitions are paused; both
are answers. The time since the last one is what the statistics call `rxidle`; a connection that has not received
anything yet, as to a broker that is stopped while its kernel still accepts, has −1. Committed offsets and lag would
tell nothing, since with transactions the consumer itself commits nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

# Well below the time after which a silent Kafka counts as down.
STATISTICS_INTERVAL_MS = 5_000


class Contact:
    """The time of the last answer. Any thread may call it.

    Args:
        clock: seconds that only ever go forward.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._at: float | None = None

    @property
    def at(self) -> float | None:
        """When a broker has last answered; None: not yet."""
        return self._at

    def answered(self, at: float) -> None:
        """A broker has answered at that time."""
        with self._lock:
            self._at = at if self._at is None else max(self._at, at)

    def on_statistics(self, statistics: str) -> None:
        """librdkafka's `stats_cb`; times there are microseconds."""
        now = self._clock()
        for broker in json.loads(statistics).get("brokers", {}).values():
            if broker.get("rxidle", -1) >= 0:
                self.answered(now - broker["rxidle"] / 1e6)
