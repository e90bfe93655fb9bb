"""A random SDXL at toy width: the real classes, the real files, a few MB, no download.

Every code path of the worker runs on it on one CPU thread: two text encoders, micro-conditioning,
a VAE that scales by 8, a refiner with aesthetic scores, safetensors in diffusers' layout.
What it draws means nothing, but depends on prompt, seed and every parameter as the real one does.
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
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from worker.models.load import silence_progress

# CLIP-L and CLIP-G must differ in width: diffusers' single-file reader tells them apart by it.
CLIP_L_WIDTH = 32
CLIP_G_WIDTH = 64
TIME_IDS_WIDTH = 8
BASE_TIME_IDS = 6  # original size, crop, target size
REFINER_TIME_IDS = 5  # original size, crop, aesthetic score
MAX_TOKENS = 77
DEFAULT_SIDE_PX = 64
VAE_SCALE = 8

# Freshly initialised networks hardly hear their conditioning: CLIP's embeddings start at a standard
# deviation of 0.02, and a UNet's prediction at a third of the noise. These factors make the picture
# depend visibly on prompt, guidance and step count. The refiner only ever sees the last, low noise
# levels, so its say must be louder still. Found by trial; pictures stay unsaturated.
EMBEDDING_GAIN = 30.0
CONDITIONING_GAIN = 3.0
BASE_OUTPUT_GAIN = 3.0
REFINER_OUTPUT_GAIN = 30.0

BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def write_tiny(directory: Path, *, seed: int = 0) -> None:
    """Write `directory/base` and `directory/refiner`: the same seed gives the same bytes of weights.

    As in the originals, both share their second text encoder and their VAE, bit for bit.
    """
    silence_progress()
    base, refiner = _build(seed)
    base.save_pretrained(directory / "base", safe_serialization=True)
    refiner.save_pretrained(directory / "refiner", safe_serialization=True)


def _build(seed: int) -> tuple[StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline]:
    vocabulary = _vocabulary()
    with torch.random.fork_rng(devices=[]):
        # Module constructors draw from torch's global generator only.
        torch.manual_seed(seed)
        shared = {
            "vae": _vae(),
            "text_encoder_2": CLIPTextModelWithProjection(_text_config(CLIP_G_WIDTH, "gelu", vocabulary)),
            "scheduler": _scheduler(),
        }
        text_encoder = CLIPTextModel(_text_config(CLIP_L_WIDTH, "quick_gelu", vocabulary))
        base_unet = _unet(CLIP_L_WIDTH + CLIP_G_WIDTH, BASE_TIME_IDS)
        refiner_unet = _unet(CLIP_G_WIDTH, REFINER_TIME_IDS)
    for encoder in (text_encoder, shared["text_encoder_2"]):
        _scale(encoder, "embeddings.", EMBEDDING_GAIN)
    for unet, output_gain in ((base_unet, BASE_OUTPUT_GAIN), (refiner_unet, REFINER_OUTPUT_GAIN)):
        _scale(unet, "attn2.to_out.0.", CONDITIONING_GAIN)
        _scale(unet, "add_embedding.linear_2.", CONDITIONING_GAIN)
        _scale(unet, "conv_out.", output_gain)
    # SDXL's second tokenizer pads with "!", whose id is 0, and its first one with the end token.
    tokenizer, tokenizer_2 = _tokenizer(vocabulary, EOS), _tokenizer(vocabulary, "!")
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


def _unet(cross_attention_dim: int, time_ids: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=DEFAULT_SIDE_PX // VAE_SCALE,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=cross_attention_dim,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_IDS_WIDTH,
        projection_class_embeddings_input_dim=CLIP_G_WIDTH + time_ids * TIME_IDS_WIDTH,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=DEFAULT_SIDE_PX,
        scaling_factor=0.13025,
        force_upcast=True,
    )


def _text_config(width: int, activation: str, vocabulary: dict[str, int]) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=CLIP_G_WIDTH,
        # SDXL reads the hidden states before the last layer, so one layer would leave embeddings only.
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_act=activation,
        max_position_embeddings=MAX_TOKENS,
        vocab_size=len(vocabulary),
        bos_token_id=vocabulary[BOS],
        eos_token_id=vocabulary[EOS],
        pad_token_id=vocabulary[EOS],
    )


def _scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )


def _vocabulary() -> dict[str, int]:
    """Every byte, inside a word and at its end, then CLIP's two marks with the end token last."""
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), BOS, EOS]
    return {token: index for index, token in enumerate(tokens)}


def _tokenizer(vocabulary: dict[str, int], pad_token: str) -> CLIPTokenizer:
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=[],
        unk_token=EOS,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=pad_token,
        model_max_length=MAX_TOKENS,
    )
