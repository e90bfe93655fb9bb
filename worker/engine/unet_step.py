"""One UNet step of some rows: on the fast path where they are compiled, else by the stage's denoiser."""

from __future__ import annotations

from collections.abc import Callable

from worker.engine.accelerator import Accelerator
from worker.engine.ahead import Ahead
from worker.engine.compiled.fast_path import FastPath
from worker.engine.cost import Group, Stage
from worker.engine.denoise import Denoiser
from worker.engine.memory import MemoryLadder
from worker.engine.pipeline import SdxlModel
from worker.engine.row import Row


class UNetStep:
    """Has the weights where a step needs them, and gives it to the device.

    Args:
        stopwatch: seconds that nobody sets.
    """

    def __init__(
        self,
        model: SdxlModel,
        accelerator: Accelerator,
        fast: FastPath,
        ladder: MemoryLadder,
        ahead: Ahead,
        stopwatch: Callable[[], float],
    ) -> None:
        self._model = model
        self._accelerator = accelerator
        self._fast = fast
        self._ladder = ladder
        self._ahead = ahead
        self._stopwatch = stopwatch
        stages = [Stage.BASE] if model.refiner is None else list(Stage)
        self._denoisers = {
            stage: Denoiser(
                model.unet(stage),
                model.lora_cache if stage is Stage.BASE else None,
                rescale=model.guidance_rescale(stage),
            )
            for stage in stages
        }

    def run(self, rows: list[Row], group: Group) -> float:
        """Step the rows, all of `group`, and return the seconds that it took. A failed allocation changes no row."""

        def launch() -> None:
            self._model.bring(group.stage)
            if group.stage is Stage.BASE:
                if rows[0].conditioning.merged is not None:
                    self._ahead.join()
                # Compiled steps too: rows without LoRAs want the model's own weights.
                self._model.lora_cache.exchange.bring(rows[0].conditioning.merged)
            if not self._step_compiled(rows, group):
                self._denoisers[group.stage].step(rows, group.padded(self._ladder.rows_max))

        return self._accelerator.step(launch, (group, len(rows)), self._stopwatch)

    def forget(self) -> None:
        """Keep nothing of the rows that were stepped last."""
        self._fast.forget()
        for denoiser in self._denoisers.values():
            denoiser.forget()

    def _step_compiled(self, rows: list[Row], group: Group) -> bool:
        """Whether the step has run on the fast path; on the other one it gives other bits than it should."""
        if not group.compiled:
            return False
        if not self._ladder.steps_differ(group) and self._fast.step(group, rows):
            return True
        for row in rows:
            row.reproducible = False
        return False
