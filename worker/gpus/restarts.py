"""When a worker that has ended is started again. Pure; times are seconds of any clock that runs steadily."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 60.0
# A worker that ran for so long had been well: its next pause is the first one again.
WELL_AFTER_S = 600.0
# Wrong settings (worker/cli/exits.py): another start would end the same way.
EXIT_WRONG = 2


@dataclass(slots=True)
class Restarts:
    """Of one worker."""

    started_at: float = 0.0
    failures: int = 0

    def after(self, code: int, now: float) -> float | None:
        """When to start it again; None: not at all, since it was told to stop, or its settings are wrong.

        Args:
            code: its exit code; minus the number of the signal that ended it.
        """
        if code in (0, EXIT_WRONG):
            return None
        self.failures = 1 if now - self.started_at >= WELL_AFTER_S else self.failures + 1
        return now + min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.failures - 1, 30))
