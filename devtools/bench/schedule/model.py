"""The toy SDXL for the benchmark: every piece of device work advances a virtual clock by a fixed price."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from worker.engine.cost import Stage
from worker.engine.pipeline import SdxlModel
from worker.engine.row import Row
from worker.engine.schedule.rows import Segment
from worker.job import Job

Work = Literal["accept", "prepare", "step", "decode"]


@dataclass(frozen=True, slots=True)
class Prices:
    """Seconds of each kind of work: a request's arrival, the preparation of its row, a step, and a decode."""

    accept: float
    prepare: float
    step: float
    decode: float

    def of(self, work: Work) -> float:
        seconds: float = getattr(self, work)
        return seconds


class ChargedModel(SdxlModel):
    """A model that calls `charge` once for each piece of work, when the work begins.

    Without `real`, UNet and VAE are replaced by stand-ins, which requires that all jobs have the same steps. With fixed
    prices, no decision of the engine depends on the output of the UNet, so the stand-ins do not change the schedule.
    """

    def __init__(self, base: Any, charge: Callable[[Work], None], *, real: bool) -> None:
        super().__init__(base)
        self._charge = charge
        self._real = real
        self._segments: list[Segment] = []

    def unet(self, stage: Stage) -> Any:
        unet = super().unet(stage)

        def charged(samples: Any, *args: Any, **options: Any) -> Any:
            self._charge("step")
            return unet(samples, *args, **options) if self._real else (samples,)

        return charged

    def segments(self, job: Job) -> list[Segment]:
        self._charge("accept")
        if self._real or not self._segments:
            self._segments = super().segments(job)
        return self._segments

    def prepare(self, job: Job, now: float) -> Row:
        self._charge("prepare")
        return super().prepare(job, now)

    def decode(self, row: Row) -> npt.NDArray[np.uint8]:
        self._charge("decode")
        return super().decode(row) if self._real else _NO_PICTURE


_NO_PICTURE = np.zeros((1, 1, 3), np.uint8)
