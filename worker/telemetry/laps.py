"""How long each part of something took, for one line in the log."""

from __future__ import annotations

import time
from collections.abc import Callable


class Laps:
    """Seconds by part; the first one begins now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self.seconds: dict[str, float] = {}

    def end(self, part: str) -> None:
        """What has passed since the last call belongs to `part`."""
        now = self._clock()
        self.seconds[part] = round(self.seconds.get(part, 0.0) + now - self._since, 2)
        self._since = now
