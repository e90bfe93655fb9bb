"""Golden pictures: perceptual hashes of twenty prompts, which change with the model, but not with the CPU.

The hash of a picture is its mean colours on an 8 × 8 grid, as hexadecimal RGB. Differences in rounding change a colour
by one or two units, another picture changes it by dozens. After an intended change,
`python -m devtools.bench.quality.golden FILE` writes the hashes again.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from devtools.bench.equality.draw import WatchedModel
from devtools.bench.quality.truth import Wish, draw
from devtools.demo_model.scenes import full_prompt, random_scene
from devtools.models.shipped import DEMO_BASE, DEMO_LORAS
from worker.models.load import load_base

PICTURES = 20
_GRID = 8
_LORAS = ((), (("moon", 1.0),), (), (("sepia", 0.8),))


def wishes() -> list[Wish]:
    """Return twenty random scenes, every other one with a LoRA, some with a negative prompt and other guidance."""
    rng = random.Random("golden")
    return [
        Wish(
            prompt=full_prompt(random_scene(rng)),
            seed=number,
            negative_prompt=(None, "blurry", "", "frame")[number % 4],
            guidance_scale=(5.0, 7.5, 1.0, 3.0, 5.0)[number % 5],
            loras=_LORAS[number % len(_LORAS)],
        )
        for number in range(PICTURES)
    ]


def hashes() -> list[dict[str, str]]:
    """Draw the pictures with the worker's engine, and return each prompt with its perceptual hash."""
    model = WatchedModel(load_base(str(DEMO_BASE), dtype=torch.float32, device="cpu"), lora_dir=DEMO_LORAS)
    asked = wishes()
    return [
        {"prompt": wish.prompt, "hash": perceptual_hash(picture)}
        for wish, picture in zip(asked, draw(model, asked), strict=True)
    ]


def perceptual_hash(picture: Image.Image) -> str:
    """Return the mean colours on the grid, row by row."""
    return picture.convert("RGB").resize((_GRID, _GRID), Image.Resampling.BOX).tobytes().hex()


def distance(one: str, other: str) -> float:
    """Return the mean absolute difference of the colours of two hashes, on a scale of 0 to 255."""
    a, b = (np.frombuffer(bytes.fromhex(text), np.uint8).astype(np.int16) for text in (one, other))
    return float(np.abs(a - b).mean())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(hashes(), indent=1) + "\n")
