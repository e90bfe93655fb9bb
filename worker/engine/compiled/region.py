"""What is compiled: one step of all rows of a call, from the latents to the next latents.

The region holds the UNet, guidance and the update of DPM++ 2M. It always computes the update, also for rows that
diffusers steps (`solvers.py`) and whose update is not used: so there is one graph for each shape, and the bits of a row
do not depend on the schedulers of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch

from worker.engine.batched_sampler import moved, predicted_x0
from worker.engine.cost import Group
from worker.engine.denoise import guide

# Guided prediction, next latents, predicted x0: (rows, C, h, w) each.
Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Region = Callable[..., Outputs]

_COEFFICIENTS = 6


@dataclass(frozen=True, slots=True)
class Inputs:
    """The region's inputs: tensors that stay where they are, and are filled anew for every step.

    `latents`, `model_input` (the latents as the UNet expects them) and `previous` (the x0 of the last step) are
    (rows, C, h, w), `timesteps` (rows,), `table` (6, rows, 1, 1, 1), `scale` (rows, 1, 1, 1), the last three float32.
    `prompt` is (samples, tokens, width), `pooled` (samples, projection), `time_ids` (samples, 5 or 6): the negatives of
    guided rows first.
    """

    latents: torch.Tensor
    model_input: torch.Tensor
    previous: torch.Tensor
    timesteps: torch.Tensor
    table: torch.Tensor
    scale: torch.Tensor
    prompt: torch.Tensor
    pooled: torch.Tensor
    time_ids: torch.Tensor

    def all(self) -> list[torch.Tensor]:
        """Return them in the order of the region's arguments."""
        return [getattr(self, field.name) for field in fields(self)]


def rows_of(group: Group) -> int:
    """Return the rows of a call of this group, whose samples must be known."""
    assert group.samples is not None
    return group.samples // group.samples_per_row


def make_inputs(
    group: Group, *, channels: int, prompt: torch.Tensor, pooled: torch.Tensor, time_ids: torch.Tensor
) -> Inputs:
    """Return inputs of zeros for a group, of the conditioning's precision and device.

    Args:
        channels: of the latents.
        prompt: one row's conditioning for this number of chunks, with `pooled` and `time_ids`.
    """
    rows, samples = rows_of(group), rows_of(group) * group.samples_per_row
    shape = (rows, channels, group.height, group.width)

    def zeros(*size: int, dtype: torch.dtype = prompt.dtype) -> torch.Tensor:
        return torch.zeros(size, dtype=dtype, device=prompt.device)

    return Inputs(
        latents=zeros(*shape),
        model_input=zeros(*shape),
        previous=zeros(*shape),
        timesteps=zeros(rows, dtype=torch.float32),
        table=torch.ones(_COEFFICIENTS, rows, 1, 1, 1, device=prompt.device),
        scale=zeros(rows, 1, 1, 1, dtype=torch.float32),
        prompt=zeros(samples, *prompt.shape[1:]),
        pooled=zeros(samples, *pooled.shape[1:]),
        time_ids=zeros(samples, *time_ids.shape[1:], dtype=time_ids.dtype),
    )


def make_region(unet: Any, group: Group, *, rescale: float, velocity: bool) -> Region:
    """Return the function of `Inputs.all` for a group.

    Args:
        unet: a diffusers `UNet2DConditionModel`. Its weights are read at every call, so that they may be exchanged in
            place.
        rescale: `guidance_rescale` of diffusers' pipelines.
        velocity: the model predicts velocity instead of noise.
    """
    rows, per_row, guided = rows_of(group), group.samples_per_row, group.guided

    def region(
        latents: torch.Tensor,
        model_input: torch.Tensor,
        previous: torch.Tensor,
        timesteps: torch.Tensor,
        table: torch.Tensor,
        scale: torch.Tensor,
        prompt: torch.Tensor,
        pooled: torch.Tensor,
        time_ids: torch.Tensor,
    ) -> Outputs:
        predicted = unet(
            torch.cat([model_input] * per_row),
            torch.cat([timesteps] * per_row),
            encoder_hidden_states=prompt,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
            return_dict=False,
        )[0]
        noise = guide(predicted, rows, scale, guided=guided, rescale=rescale)
        x0 = predicted_x0(table, noise, latents, velocity=velocity)
        return noise, moved(table, latents, x0, previous), x0

    return region
