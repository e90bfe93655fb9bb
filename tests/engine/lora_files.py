"""Random LoRA files for the toy SDXL in the two common layouts, and how diffusers itself loads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from worker.engine.lora.cache import LoraCache, Loras
from worker.errors import ErrorCode, RequestRejected

# One of each kind of layer that LoRAs change: attention, feed-forward, projection, time embedding, convolutions
# plain, strided and 1 × 1.
UNET_MODULES = (
    "conv_in",
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.0.resnets.0.time_emb_proj",
    "down_blocks.0.downsamplers.0.conv",
    "down_blocks.1.attentions.0.proj_in",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k",
    "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_v",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.2",
    "up_blocks.0.resnets.0.conv_shortcut",
    "up_blocks.0.upsamplers.0.conv",
)
TEXT_MODULES = ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
TEXT = ("text_encoder", "text_encoder_2")

Tensors = dict[str, torch.Tensor]


def write_peft(
    path: Path, pipeline: Any, *, seed: int = 0, rank: int = 4, text: Sequence[str] = (), size: float = 0.1
) -> Tensors:
    """PEFT's layout, as diffusers saves it: no alpha."""
    tensors: Tensors = {}
    for component, module, down, up in _random(pipeline, seed, rank, text, size):
        tensors |= {f"{component}.{module}.lora_A.weight": down, f"{component}.{module}.lora_B.weight": up}
    save_file(tensors, path)
    return tensors


def write_kohya(
    path: Path, pipeline: Any, *, seed: int = 0, rank: int = 4, text: Sequence[str] = (), size: float = 0.1
) -> Tensors:
    """kohya's layout: alpha half the rank, and a quarter in convolutions."""
    prefixes = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    tensors: Tensors = {}
    for component, module, down, up in _random(pipeline, seed, rank, text, size):
        stem = f"{prefixes[component]}_{module.replace('.', '_')}"
        alpha = torch.tensor(rank / (4 if down.ndim == 4 else 2))
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": alpha}
    save_file(tensors, path)
    return tensors


def _random(
    pipeline: Any, seed: int, rank: int, text: Sequence[str], size: float
) -> list[tuple[str, str, torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    targets = [("unet", module, module) for module in UNET_MODULES]
    for component in text:
        nested = hasattr(getattr(pipeline, component), "text_model")
        for module in TEXT_MODULES:
            inner = f"encoder.layers.0.{module}"
            targets.append((component, f"text_model.{inner}", f"text_model.{inner}" if nested else inner))
    layers = []
    for component, name, module in targets:
        weight = getattr(pipeline, component).get_submodule(module).weight
        down = torch.randn(rank, *weight.shape[1:], generator=generator) * size
        up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=generator) * size
        layers.append((component, name, down, up))
    return layers


def load_into(pipeline: Any, **files: Tensors) -> None:
    for name, tensors in files.items():
        pipeline.load_lora_weights(dict(tensors), adapter_name=name)


def set_adapters(pipeline: Any, loras: Loras) -> None:
    if not loras:
        pipeline.disable_lora()
        return
    pipeline.enable_lora()
    pipeline.set_adapters([name for name, _ in loras], [weight for _, weight in loras])


def hooks_of(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def refused(lora_cache: LoraCache, name: str, said: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        lora_cache.check([(name, 1.0)])
    assert caught.value.code is ErrorCode.UNKNOWN_LORA
    assert caught.value.message.startswith(f"LoRA {name}: ")
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert lora_cache.loaded == 0
