"""A toy SDXL with random weights: the real classes and file layout, a few MB, without a download.

It exercises every code path of the worker on a single CPU thread: two text encoders, micro-conditioning, a VAE that
scales by 8, a refiner with aesthetic scores, and safetensors in diffusers' layout. Its pictures are meaningless, but
depend on the prompt, the seed and every parameter, as those of a real model do.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from devtools.models import small
from worker.models.formulation import LATENT_CHANNELS
from worker.models.load import silence_progress

# The widths must differ, because diffusers' single-file loader distinguishes CLIP-L and CLIP-G by them.
CLIP_L_WIDTH = 32
CLIP_G_WIDTH = 64
DEFAULT_SIDE_PX = 64
VAE_SCALE = 8

# Freshly initialised networks hardly react to their conditioning: CLIP's embeddings start with a standard deviation of
# 0.02, and a UNet's prediction with a third of the noise. These factors make the picture depend visibly on prompt,
# guidance and step count. The refiner only runs at the last, low noise levels, so its factor is larger. The values were
# found by trial; pictures do not saturate.
EMBEDDING_GAIN = 30.0
CONDITIONING_GAIN = 3.0
BASE_OUTPUT_GAIN = 3.0
REFINER_OUTPUT_GAIN = 30.0


def write_tiny(directory: Path, *, seed: int = 0) -> None:
    """Write `directory/base` and `directory/refiner`; the same seed gives the same bytes of weights.

    As in the original models, both have the same second text encoder and VAE, bit for bit.
    """
    silence_progress()
    base, refiner = _build(seed)
    base.save_pretrained(directory / "base", safe_serialization=True)
    refiner.save_pretrained(directory / "refiner", safe_serialization=True)


def _build(seed: int) -> tuple[StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline]:
    # The vocabulary has no merges, so every byte of a word is a token.
    vocabulary = small.numbered(small.alphabet())
    with torch.random.fork_rng(devices=[]):
        # Constructors of modules can only draw from torch's global generator.
        torch.manual_seed(seed)
        shared = {
            "vae": _vae(),
            "text_encoder_2": CLIPTextModelWithProjection(_text_config(CLIP_G_WIDTH, "gelu", vocabulary)),
            "scheduler": _scheduler(),
        }
        text_encoder = CLIPTextModel(_text_config(CLIP_L_WIDTH, "quick_gelu", vocabulary))
        base_unet = _unet(CLIP_L_WIDTH + CLIP_G_WIDTH, small.BASE_TIME_IDS)
        refiner_unet = _unet(CLIP_G_WIDTH, small.REFINER_TIME_IDS)
    for encoder in (text_encoder, shared["text_encoder_2"]):
        _scale(encoder, "embeddings.", EMBEDDING_GAIN)
    for unet, output_gain in ((base_unet, BASE_OUTPUT_GAIN), (refiner_unet, REFINER_OUTPUT_GAIN)):
        _scale(unet, "attn2.to_out.0.", CONDITIONING_GAIN)
        _scale(unet, "add_embedding.linear_2.", CONDITIONING_GAIN)
        _scale(unet, "conv_out.", output_gain)
    tokenizer, tokenizer_2 = small.tokenizer_pair(vocabulary, merges=())
    base = StableDiffusionXLPipeline(
        **shared,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=base_unet,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    refiner = StableDiffusionXLImg2ImgPipeline(
        **shared,
        text_encoder=None,
        tokenizer=None,
        tokenizer_2=tokenizer_2,
        unet=refiner_unet,
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    return base, refiner


def _scale(module: torch.nn.Module, part_of_name: str, gain: float) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if part_of_name in name:
                parameter.mul_(gain)


def _unet(text_width: int, time_ids: int) -> UNet2DConditionModel:
    return small.unet(
        (32, 64),
        sample_size=DEFAULT_SIDE_PX // VAE_SCALE,
        groups=8,
        transformer_layers=(1, 2),
        text_width=text_width,
        pooled_width=CLIP_G_WIDTH,
        time_ids=time_ids,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=DEFAULT_SIDE_PX,
        scaling_factor=0.13025,
        force_upcast=True,
    )


def _text_config(width: int, activation: str, vocabulary: dict[str, int]) -> CLIPTextConfig:
    return small.text_config(vocabulary, width, pooled_width=CLIP_G_WIDTH, layers=3, heads=2, activation=activation)


def _scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
