"""Run one UNet call over the chosen rows, each with its own timestep, guidance scale, size ids and schedule."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from operator import is_not
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg

from worker.engine.batched_sampler import BatchedSampler
from worker.engine.lora.batch import LoraBatch
from worker.engine.lora.cache import LoraCache
from worker.engine.lora.exchange import LoraSet
from worker.engine.row import Row


@dataclass(slots=True)
class _Batch:
    """The tensors of a batch that stay the same while it has the same rows, with its latents and each row's `held`.

    Order of the UNet samples: the negatives if the rows are guided, the positives, copies of the first sample as
    padding up to `samples`.
    """

    latents: torch.Tensor
    held: Sequence[tuple[torch.Tensor, int]]
    sampler: BatchedSampler
    samples: int | None
    guided: bool
    prompt: torch.Tensor
    pooled: torch.Tensor
    time_ids: torch.Tensor
    scale: torch.Tensor
    mix: LoraBatch | None
    merged: LoraSet | None


class Denoiser:
    """Runs one step of a UNet.

    Args:
        unet: a diffusers `UNet2DConditionModel` with `text_time` conditioning.
        lora_cache: the LoRAs of this UNet, merged or as hooks; None if its rows never have any.
        rescale: `guidance_rescale` of diffusers' pipelines, from 0 to 1.
    """

    def __init__(self, unet: Any, lora_cache: LoraCache | None = None, *, rescale: float = 0.0) -> None:
        self._unet = unet
        self._rescale = rescale
        self._lora_cache = lora_cache
        self._batch: _Batch | None = None

    def step(self, rows: Sequence[Row], samples: int | None) -> None:
        """Advance every row by one step; all rows must be of the same group (`cost.Group`), and have the
        same LoRAs merged.

        Args:
            samples: the call is padded to these, so that the kernels, and therefore the bits, do not depend on the
                other rows of the batch. None means no padding.
        """
        batch = self._batch_of(rows, samples)
        noise = self._predict(batch)
        # This is the last call that may raise; every row is unchanged if it does.
        batch.latents = batch.sampler.step(noise, batch.latents)
        batch.held = [(batch.latents, place) for place in range(len(rows))]
        for row, held in zip(rows, batch.held, strict=True):
            row.held = held
            row.steps_done += 1

    def _predict(self, batch: _Batch) -> torch.Tensor:
        """Return the guided noise prediction, (rows, C, h, w)."""
        if self._lora_cache is not None:
            # The engine has merged them already; whoever steps rows by himself has not.
            self._lora_cache.exchange.bring(batch.merged)
        samples, timesteps = batch.sampler.unet_input(batch.latents)
        with self._applied(batch.mix):
            predicted: torch.Tensor = self._unet(
                samples,
                timesteps,
                encoder_hidden_states=batch.prompt,
                added_cond_kwargs={"text_embeds": batch.pooled, "time_ids": batch.time_ids},
                return_dict=False,
            )[0]
        return guide(predicted, len(batch.held), batch.scale, guided=batch.guided, rescale=self._rescale)

    def _applied(self, mix: LoraBatch | None) -> AbstractContextManager[None]:
        return nullcontext() if self._lora_cache is None else self._lora_cache.batch(mix)

    def _batch_of(self, rows: Sequence[Row], samples: int | None) -> _Batch:
        known = self._batch
        # `held` is a new object after every step, so identity shows that this batch was the last to advance the row.
        if (
            known is None
            or known.samples != samples
            or len(known.held) != len(rows)
            or any(map(is_not, known.held, [row.held for row in rows]))
        ):
            known = self._batch = _stack(rows, samples, self._lora_cache)
        return known

    def forget(self) -> None:
        """Free the tensors that are kept of the last batch."""
        self._batch = None


def _stack(rows: Sequence[Row], samples: int | None, lora_cache: LoraCache | None) -> _Batch:
    conditions = [row.conditioning for row in rows]
    guided = conditions[0].guided
    prompts = 2 if guided else 1
    padding = 0 if samples is None else samples - prompts * len(rows)
    device = rows[0].held[0].device

    def stack(negative: list[torch.Tensor | None], positive: list[torch.Tensor]) -> torch.Tensor:
        parts = [part for part in negative if part is not None] + positive
        return torch.cat(parts + [parts[0]] * padding)

    order = [*range(len(rows))] * prompts + [0] * padding
    scales = [condition.guidance_scale for condition in conditions]
    loras = [condition.loras for condition in conditions] * prompts + [()] * padding
    return _Batch(
        torch.cat([row.latents for row in rows]),
        [row.held for row in rows],
        BatchedSampler([row.sampler for row in rows], torch.tensor(order, device=device)),
        samples,
        guided,
        stack([c.negative_prompt for c in conditions], [c.prompt for c in conditions]),
        stack([c.negative_pooled for c in conditions], [c.pooled for c in conditions]),
        stack([c.negative_time_ids for c in conditions], [c.time_ids for c in conditions]),
        torch.tensor(scales, dtype=torch.float32, device=device).view(-1, 1, 1, 1),
        None if lora_cache is None else lora_cache.mix(loras),
        conditions[0].merged,
    )


def guide(predicted: torch.Tensor, rows: int, scale: torch.Tensor, *, guided: bool, rescale: float) -> torch.Tensor:
    """Apply classifier-free guidance (Ho & Salimans 2022) in diffusers' order of operations.

    Args:
        predicted: the UNet's output: the negatives if the rows are guided, the positives, padding; (samples, C, h, w).
        scale: the guidance scale of each row, float32 (rows, 1, 1, 1).
        rescale: `guidance_rescale` of diffusers' pipelines.

    Returns:
        (rows, C, h, w).
    """
    if not guided:
        return predicted[:rows]
    negative, text = predicted[:rows], predicted[rows : 2 * rows]
    scaled = (text - negative).float().mul_(scale)
    mixed = (scaled if text.dtype == torch.float32 else scaled.to(text.dtype)).add_(negative)
    if rescale:
        # Row by row, so that the bits of a sum over one picture do not depend on the others.
        parts = zip(torch.split(mixed, 1), torch.split(text, 1), strict=True)
        mixed = torch.cat([rescale_noise_cfg(own, plain, guidance_rescale=rescale) for own, plain in parts])
    return mixed
