"""Count the operations of a picture, on networks without memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from worker.engine.cost import Stage
from worker.engine.pipeline import SdxlModel
from worker.job import Job

_TERA = 1e12
_TOKENS = 77


@dataclass(slots=True)
class Work:
    """Counts the operations that a picture needs: two for each product that is summed, in products of matrices,
    convolutions and attention. The text encoders' (0.1 × 10^12) and those on single values are left out.

    Args:
        model: the configurations of its UNets and VAE are used.
    """

    model: SdxlModel
    _samples: dict[tuple[Stage, int, int], float] = field(default_factory=dict)
    _decodes: dict[tuple[int, int], float] = field(default_factory=dict)

    def tflop(self, job: Job) -> float:
        """Return the 10^12 operations of a job's picture, without padding."""
        steps = 0.0
        for segment in self.model.segments(job):
            group = segment.group
            samples = 2 if group.guided else 1
            steps += segment.steps * samples * self._sample(group.stage, group.height, group.width)
        return steps + self._decode(group.height, group.width)

    def _sample(self, stage: Stage, height: int, width: int) -> float:
        key = stage, height, width
        if key not in self._samples:
            pooled = self.model.base.text_encoder_2.config.projection_dim
            self._samples[key] = unet_tflop(self.model.unet(stage).config, height, width, pooled=pooled)
        return self._samples[key]

    def _decode(self, height: int, width: int) -> float:
        if (height, width) not in self._decodes:
            self._decodes[height, width] = vae_tflop(self.model.base.vae.config, height, width)
        return self._decodes[height, width]


def unet_tflop(config: Any, height: int, width: int, *, pooled: int) -> float:
    """Return the 10^12 operations of one call of an SDXL UNet for one sample.

    Args:
        height, width: of the latents.
        pooled: width of the pooled text embedding.
    """
    with torch.device("meta"), torch.inference_mode():
        unet: Any = UNet2DConditionModel.from_config(dict(config))
        own = unet.config
        ids = (own.projection_class_embeddings_input_dim - pooled) // own.addition_time_embed_dim
        with FlopCounterMode(display=False) as counter:
            unet(
                torch.empty(1, own.in_channels, height, width),
                torch.empty(1),
                encoder_hidden_states=torch.empty(1, _TOKENS, own.cross_attention_dim),
                added_cond_kwargs={"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, ids)},
                return_dict=False,
            )
    return float(counter.get_total_flops()) / _TERA


def vae_tflop(config: Any, height: int, width: int) -> float:
    """Return the 10^12 operations of the decode of one row's latents, which have this height and width."""
    with torch.device("meta"), torch.inference_mode():
        vae: Any = AutoencoderKL.from_config(dict(config))
        with FlopCounterMode(display=False) as counter:
            vae.decode(torch.empty(1, vae.config.latent_channels, height, width), return_dict=False)
    return float(counter.get_total_flops()) / _TERA
