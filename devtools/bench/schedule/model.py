"""The toy SDXL, with every piece of device work charged to a virtual clock at a fixed price."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from worker.engine.cost import Stage
from worker.engine.pipeline import SdxlModel
from worker.engine.row import Row
from worker.engine.schedule import Segment
from worker.job import Job

Work = Literal["accept", "prepare", "step", "decode"]


@dataclass(frozen=True, slots=True)
class Prices:
    """Seconds of each kind of work: what a request costs on arrival, at its first step, a step, a decode."""

    accept: float
    prepare: float
    step: float
    decode: float

    def of(self, work: Work) -> float:
        seconds: float = getattr(self, work)
        return seconds


class ChargedModel(SdxlModel):
    """`charge` is called once for each piece of work, when it begins; without `real`, UNet and VAE are stand-ins.

    All jobs have the same steps then.

    With fixed prices no decision of the engine depends on what the UNet gives, so the stand-ins change no schedule.
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
