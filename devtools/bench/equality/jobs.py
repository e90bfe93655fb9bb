"""Random jobs for the toy model, and random LoRAs for them; both depend only on the seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from devtools.bench.jobs import job_of
from worker.events.types import GenerationRequest
from worker.job import SCHEDULERS, Job, Lane, LoraMethod

LORAS = ("ink", "clay", "glow")

# Few sizes, so that batches fill; one has a side that the UNet cannot halve evenly.
_SIZES = ((64, 64), (64, 64), (64, 96), (96, 64), (72, 104), (128, 128))
_FEWEST = (1, 2, 3)
_MOST_STEPS = 14
_GUIDANCE = (0.0, 1.0, 1.5, 5.0, 7.5, 12.0)
_PROMPTS = ("a lighthouse in a storm", "b", "", "a fox, 50mm photo, film grain", "über den Wolken")
_NEGATIVES = (None, None, "", "blurry, text")

# Attention, feed-forward and convolution layers of the UNet, and layers of both text encoders.
_LORA_LAYERS = {
    "unet": (
        "conv_in",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "mid_block.attentions.0.transformer_blocks.0.ff.net.2",
        "up_blocks.0.upsamplers.0.conv",
    ),
    "text_encoder": ("text_model.encoder.layers.0.self_attn.q_proj",),
    "text_encoder_2": ("text_model.encoder.layers.1.mlp.fc1",),
}
_LORA_RANKS = (2, 4, 8)
_LORA_WEIGHTS = (-1.0, 0.0, 0.6, 1.0)
_LORA_SIZE = 0.1


def random_jobs(count: int, rng: random.Random, *, loras: Sequence[str] = ()) -> list[Job]:
    """Return jobs with every scheduler at 1, 2 and 3 steps, followed by jobs with random parameters.

    Args:
        loras: names of LoRAs, from which half of the jobs get some; may be empty.
    """
    return [_random_job(index, rng, loras) for index in range(count)]


def fewest_jobs() -> int:
    """Return the number of jobs needed to have every scheduler at 1, 2 and 3 steps."""
    return len(SCHEDULERS) * len(_FEWEST)


def _random_job(index: int, rng: random.Random, loras: Sequence[str]) -> Job:
    steps, scheduler = rng.randint(_FEWEST[-1] + 1, _MOST_STEPS), SCHEDULERS[index % len(SCHEDULERS)]
    if index < fewest_jobs():
        steps = _FEWEST[index // len(SCHEDULERS)]
    height, width = rng.choice(_SIZES)
    request = GenerationRequest(
        job_id=f"job-{index}",
        girl_id="bench",
        user_id=0,
        prompt=rng.choice(_PROMPTS),
        negative_prompt=rng.choice(_NEGATIVES),
        num_inference_steps=steps,
        guidance_scale=rng.choice(_GUIDANCE),
        high_quality=rng.random() < 1 / 3,
        scheduler=scheduler,
        height=height,
        width=width,
    )
    job = job_of(request, index, lane=rng.choice(list(Lane)), seed=rng.getrandbits(63))
    if not loras or rng.random() < 1 / 2:
        return job
    chosen = rng.sample(loras, rng.randint(1, len(loras)))
    weighed = tuple((name, rng.choice(_LORA_WEIGHTS)) for name in chosen)
    # Both ways in one worker, as where older manifests are replayed.
    return replace(job, loras=weighed, lora_method=rng.choice((None, LoraMethod.HOOKS)))


def write_loras(folder: Path, base: Any) -> None:
    """Write `LORAS` for a toy pipeline, in PEFT's layout."""
    for number, (name, rank) in enumerate(zip(LORAS, _LORA_RANKS, strict=True)):
        generator = torch.Generator().manual_seed(number)
        tensors = {}
        for component, modules in _LORA_LAYERS.items():
            for module in modules:
                weight = _submodule(getattr(base, component), module).weight
                ones = [1] * (weight.ndim - 2)
                down = torch.randn(rank, *weight.shape[1:], generator=generator)
                up = torch.randn(weight.shape[0], rank, *ones, generator=generator)
                tensors[f"{component}.{module}.lora_A.weight"] = down * _LORA_SIZE
                tensors[f"{component}.{module}.lora_B.weight"] = up * _LORA_SIZE
        save_file(tensors, folder / f"{name}.safetensors")


def _submodule(model: Any, name: str) -> Any:
    """Return a submodule by its name in LoRA files; newer text encoders no longer have the `text_model` level."""
    return model.get_submodule(name if hasattr(model, "text_model") else name.removeprefix("text_model."))
