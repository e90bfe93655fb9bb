"""A job on its way through the UNet: everything that a parked row has to keep."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.engine.cost import Stage
from worker.engine.samplers import Sampler
from worker.job import Job


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the UNet is told beside the latents, for one row of one stage.

    `prompt` is (1, tokens, width), `pooled` (1, projection), `time_ids` (1, 5 or 6); the `negative_` ones are None
    where there is no guidance, that is at a `guidance_scale` of at most 1. `loras` are (name, weight) pairs.
    """

    guidance_scale: float

    prompt: torch.Tensor
    pooled: torch.Tensor
    time_ids: torch.Tensor
    negative_prompt: torch.Tensor | None = None
    negative_pooled: torch.Tensor | None = None
    negative_time_ids: torch.Tensor | None = None
    loras: tuple[tuple[str, float], ...] = ()

    @property
    def guided(self) -> bool:
        return self.negative_prompt is not None


@dataclass(slots=True, eq=False)
class Row:
    """One job's state between two steps: about 1 MiB at 1024².

    `held` is the latents of the rows that were last stepped together, (rows, 4, height / 8, width / 8), and this
    row's place among them: views of its own, made at every step, would take longer than the arithmetic.

    `reproducible` falls when a step was run in another shape than the usual one, for want of memory.
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
        """This row's own, (1, 4, height / 8, width / 8)."""
        together, place = self.held
        return together[place : place + 1]

    @latents.setter
    def latents(self, latents: torch.Tensor) -> None:
        self.held = latents, 0
