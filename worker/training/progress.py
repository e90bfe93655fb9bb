"""Types of the callbacks that a training run calls to report its progress."""

from __future__ import annotations

from collections.abc import Callable

# Called with (steps done, total steps, loss).
StageProgress = Callable[[int, int, float], None]
# Called with (name of the stage, steps done, total steps, loss).
Progress = Callable[[str, int, int, float], None]
