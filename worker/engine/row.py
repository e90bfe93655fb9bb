"""The state of a job between UNet steps: everything that a parked row has to keep."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.engine.cost import Stage
from worker.engine.lora.exchange import LoraSet
from worker.engine.samplers import Sampler
from worker.job import Job


@dataclass(frozen=True, slots=True)
class Conditioning:
    """The UNet's inputs besides the latents, for one row in one stage.

    `prompt` is (1, tokens, width), `pooled` (1, projection), `time_ids` (1, 5 or 6). Without guidance, which means a
    `guidance_scale` of at most 1, the `negative_` fields are None. `loras` are (name, weight) pairs that hooks apply;
    `merged` is the set that is merged into the weights instead, None for the base's own.
    """

    guidance_scale: float

    prompt: torch.Tensor
    pooled: torch.Tensor
    time_ids: torch.Tensor
    negative_prompt: torch.Tensor | None = None
    negative_pooled: torch.Tensor | None = None
    negative_time_ids: torch.Tensor | None = None
    loras: tuple[tuple[str, float], ...] = ()
    merged: LoraSet | None = None

    @property
    def guided(self) -> bool:
        return self.negative_prompt is not None


@dataclass(slots=True, eq=False)
class Row:
    """The state of one job between two steps, about 1 MiB at 1024².

    `held` holds the latents of the rows that were last stepped together, (rows, 4, height / 8, width / 8), and this
    row's index among them. Creating a view for each row at every step would take longer than the arithmetic.

    `reproducible` becomes False when a step runs with another shape than usual because memory is short.
    """

    job: Job
    stage: Stage
    held: tuple[torch.Tensor, int]
    sampler: Sampler
    conditioning: Conditioning
    generator: torch.Generator
    started_at: float
    gpu_seconds: float = 0.0
    text_seconds: float = 0.0
    steps_done: int = 0
    reproducible: bool = True

    @property
    def latents(self) -> torch.Tensor:
        """This row's latents, (1, 4, height / 8, width / 8)."""
        together, place = self.held
        return together[place : place + 1]

    @latents.setter
    def latents(self, latents: torch.Tensor) -> None:
        self.held = latents, 0
