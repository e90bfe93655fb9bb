"""Which family of models a LoRA was made for, told by its keys: for messages only."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

_BY_KEY: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("Flux", re.compile(r"(double|single)_blocks_?\.?\d|single_transformer_blocks")),
    ("Stable Diffusion 3", re.compile(r"joint_blocks|^lora_te3_|^text_encoder_3\.|^transformer\.transformer_blocks")),
    ("Stable Cascade", re.compile(r"^lora_prior_")),
    ("a video model", re.compile(r"temporal|motion_modules|^diffusion_model\.blocks\.\d")),
)
# The cross-attention of Stable Diffusion reads text of this width; SDXL's is 2048.
_TEXT_WIDTHS = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2"}
_CROSS_ATTENTION = re.compile(r"attn2[._]to_[kv]\.(lora_down\.weight|lora_A\.weight|lora\.down\.weight|hada_w1_b)$")


def family_of(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Return the family, or None if the keys do not tell."""
    for key, tensor in tensors.items():
        for family, pattern in _BY_KEY:
            if pattern.search(key):
                return family
        if _CROSS_ATTENTION.search(key) and tensor.ndim > 1 and tensor.shape[1] in _TEXT_WIDTHS:
            return _TEXT_WIDTHS[tensor.shape[1]]
    return None
