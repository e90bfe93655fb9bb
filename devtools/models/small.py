"""Parts that the toy and the demo SDXL have in common: CLIP's special tokens, two tokenizers, the configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffusers import UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTokenizer

from worker.models.formulation import LATENT_CHANNELS

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77
TIME_IDS_WIDTH = 8
BASE_TIME_IDS = 6  # original size, crop, target size
REFINER_TIME_IDS = 5  # original size, crop, aesthetic score


def alphabet() -> list[str]:
    """Return the tokens for every byte, inside a word and at its end, as byte-level BPE writes them."""
    letters = sorted(ByteLevel.alphabet())
    return [*letters, *(f"{letter}</w>" for letter in letters)]


def numbered(tokens: Sequence[str]) -> dict[str, int]:
    """Number the tokens, then CLIP's start and end tokens; CLIP finds a prompt's end by the end token's highest id."""
    return {token: index for index, token in enumerate([*tokens, BOS, EOS])}


def tokenizer_pair(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]
) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Build SDXL's two tokenizers; the first one pads with the end token, the second one with "!", whose id is 0."""
    first, second = (
        CLIPTokenizer(
            vocab=dict(vocabulary),
            merges=list(merges),
            unk_token=EOS,
            bos_token=BOS,
            eos_token=EOS,
            pad_token=pad,
            model_max_length=MAX_TOKENS,
        )
        for pad in (EOS, "!")
    )
    return first, second


def text_config(
    vocabulary: Mapping[str, int], width: int, *, pooled_width: int, layers: int, heads: int, activation: str
) -> CLIPTextConfig:
    """Return a text encoder's configuration; SDXL uses the layer before the last, so at least two layers are needed."""
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=pooled_width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=activation,
        max_position_embeddings=MAX_TOKENS,
        vocab_size=len(vocabulary),
        bos_token_id=vocabulary[BOS],
        eos_token_id=vocabulary[EOS],
        pad_token_id=vocabulary[EOS],
    )


def unet(
    channels: tuple[int, int],
    *,
    sample_size: int,
    groups: int,
    transformer_layers: int | tuple[int, int],
    text_width: int,
    pooled_width: int,
    time_ids: int,
) -> UNet2DConditionModel:
    """Build a UNet of two levels, with cross-attention in the lower one and text-time conditioning.

    Weights are drawn from torch's global generator.
    """
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=groups,
        transformer_layers_per_block=transformer_layers,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=text_width,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_IDS_WIDTH,
        projection_class_embeddings_input_dim=pooled_width + time_ids * TIME_IDS_WIDTH,
    )
