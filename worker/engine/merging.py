"""Between two steps: merge the LoRA set that a row waits for, or the one that is needed next."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import cast

import torch

from worker.engine.ahead import Ahead
from worker.engine.cost import Stage
from worker.engine.lora.exchange import LoraSet
from worker.engine.memory import one_error
from worker.engine.pipeline import SdxlModel
from worker.engine.relief import MemoryRelief
from worker.engine.schedule.rows import QueuedRow
from worker.engine.schedule.scheduler import StepScheduler
from worker.job import Origin
from worker.telemetry import metrics

# How long a set is merged between two steps, as parts of a step: while a row waits for it, and ahead.
_SHARE = 0.4
_AHEAD_SHARE = 0.2


class SetMerging:
    """Merges sets a slice at a time, so that steps go on in between.

    Args:
        stopwatch: seconds that nobody sets.
    """

    def __init__(
        self,
        model: SdxlModel,
        scheduler: StepScheduler,
        ahead: Ahead,
        relief: MemoryRelief,
        stopwatch: Callable[[], float],
    ) -> None:
        self._model = model
        self._exchange = model.lora_cache.exchange
        self._scheduler = scheduler
        self._ahead = ahead
        self._relief = relief
        self._stopwatch = stopwatch

    @property
    def merged(self) -> LoraSet | None:
        """The set that is merged into the weights now."""
        return self._exchange.holds

    def is_ready(self, row: QueuedRow) -> bool:
        """Whether a row can be stepped with what is merged now."""
        return row.group.stage is Stage.REFINER or self._exchange.ready(row.loras)

    def merge_for(self, origin: Origin, step_s: float) -> bool:
        """Merge on for a row that is held up by its set; rows of its lane are stepped in between.

        Args:
            step_s: the seconds of a step.

        Returns:
            False where there is too little memory, so that the step has to be chosen anew.
        """
        loras, fits, before = cast("LoraSet | None", self._scheduler.loras(origin)), False, self._stopwatch()
        self._ahead.join()
        try:
            with one_error():
                self._model.bring(Stage.BASE)
                self._exchange.advance(loras, self._for(_SHARE * step_s))
            fits = True
        except torch.OutOfMemoryError:
            pass
        if not fits:
            self._relief.relieve([origin], rows=1, decoding=False)
        metrics.PHASE.labels("merge").observe(self._stopwatch() - before)
        return fits

    def merge_ahead(self, step_s: float) -> None:
        """Merge the set that is needed next, a little after each step that does without the second copy."""
        if not self._exchange.has_second_copy or self._exchange.in_use is not None:
            return
        wanted = cast("LoraSet | None", self._scheduler.next_set())
        if self._ahead.overlaps:
            self._ahead.merge(wanted)
            return
        # The row's turn will come, and with it whatever there is to do about a lack of memory.
        with suppress(torch.OutOfMemoryError), one_error():
            self._exchange.advance(wanted, self._for(_AHEAD_SHARE * step_s))

    def rest(self) -> None:
        """Nothing to do: the moment to make the second copy anew, and to go back to the model's own weights."""
        with suppress(torch.OutOfMemoryError), one_error():
            self._exchange.take_room()
        if self._exchange.ready(None):
            self._exchange.use(None)

    def _for(self, seconds: float) -> Callable[[], bool]:
        """Whether these seconds have not passed yet."""
        until = self._stopwatch() + seconds
        return lambda: self._stopwatch() < until
