"""What the rehearsal draws: one picture plain, with a LoRA, and with a LoRA and the refiner; and that LoRA."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from worker.events.types import GenerationRequest, Lora

LORA = "rehearsal"
SEED = 7
_RANK = 16
_WEIGHT = 0.8
# The layers that most LoRAs of SDXL have: the projections of every attention.
_LAYERS = (".to_q", ".to_k", ".to_v", ".to_out.0")
# Large enough to show in the pixels.
_DEVIATION = 0.05


def requests(*, side_px: int, steps: int, plain_only: bool = False, prefix: str = "") -> tuple[GenerationRequest, ...]:
    """Return the requests; a refined picture has its last fifth of the steps drawn by the refiner.

    Args:
        prefix: of the job ids, so that several workers can share a store.
    """
    loras = (Lora(name=LORA, weight=_WEIGHT),)
    kinds: Sequence[tuple[str, tuple[Lora, ...], bool]] = (
        ("plain", (), False),
        ("lora", loras, False),
        ("lora-refined", loras, True),
    )
    return tuple(
        GenerationRequest(
            job_id=f"{prefix}{name}",
            girl_id="rehearsal",
            user_id=0,
            prompt="a lighthouse on a cliff in a storm, oil painting",
            negative_prompt="blurry",
            width=side_px,
            height=side_px,
            num_inference_steps=steps,
            guidance_scale=7.5,
            high_quality=refined,
            loras=chosen,
            seed=SEED,
        )
        for name, chosen, refined in (kinds[:1] if plain_only else kinds)
    )


def write_lora(base: Path, folder: Path, *, name: str = LORA, seed: int = SEED, rank: int = _RANK) -> None:
    """Write a LoRA with random weights for every attention of the UNet in `base`, in PEFT's layout and bf16."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(json.loads((base / "unet" / "config.json").read_text()))
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * _DEVIATION).to(torch.bfloat16)

    tensors = {}
    for layer, module in unet.named_modules():
        if layer.endswith(_LAYERS):
            out, into = module.weight.shape
            tensors[f"unet.{layer}.lora_A.weight"] = random(rank, into)
            tensors[f"unet.{layer}.lora_B.weight"] = random(out, rank)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
