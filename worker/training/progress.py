"""What a training run calls to report how far it is."""

from __future__ import annotations

from collections.abc import Callable

# Steps done, steps in all, loss.
StageProgress = Callable[[int, int, float], None]
# The same, preceded by the name of the stage.
Progress = Callable[[str, int, int, float], None]
