"""A full-size SDXL with random weights: base and refiner of the real architecture, bf16, 11 GB, without a download.

Its pictures mean nothing. Its sizes, times and memory are those of any SDXL, which is what a rehearsal needs.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from worker.models.load import silence_progress
from worker.models.single_file import SHIPPED, clip_tokenizer

ROLES = ("base", "refiner")
# The weights of these are the same in both roles, as in SDXL itself, so that the worker loads them once.
_SHARED = ("text_encoder_2", "vae")
_ENCODERS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
_NETWORKS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
_WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}
_INDEX = "model_index.json"
_PAD_TOKENS = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}
_DTYPE, _BYTES = torch.bfloat16, 2

Say = Callable[[str], None]


def write_full(directory: Path, *, seed: int = 0, configs: Path = SHIPPED, say: Say = lambda _: None) -> None:
    """Write `base/` and `refiner/` below `directory` in diffusers' layout.

    One tensor is in memory at a time. A role's `model_index.json` is written last, so that it marks a whole model.

    Args:
        configs: folder with the configurations of both roles; default: SDXL's own, which come with the worker.
        say: called with the name of every file of weights before it is written.
    """
    silence_progress()
    for role in ROLES:
        source, target = configs / role, directory / role
        (target / _INDEX).unlink(missing_ok=True)
        for config in sorted(source.glob("*/*.json")):
            (target / config.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(config, target / config.parent.name / config.name)
        index = json.loads((source / _INDEX).read_text())
        for component, pad_token in _PAD_TOKENS.items():
            if _names(index, component):
                clip_tokenizer(pad_token=pad_token).save_pretrained(target / component)
        for component, file in _WEIGHTS.items():
            if not _names(index, component):
                continue
            path = target / component / file
            say(f"{role}/{component}/{file}")
            if role != ROLES[0] and component in _SHARED:
                _same_file(directory / ROLES[0] / component / file, path)
            else:
                shapes = _shapes(component, target / component / "config.json")
                _write(path, shapes, np.random.default_rng((seed, zlib.crc32(f"{role}/{component}".encode()))))
        shutil.copyfile(source / _INDEX, target / _INDEX)


def is_whole(directory: Path) -> bool:
    """Return whether `write_full` has ended in this folder."""
    return all((directory / role / _INDEX).is_file() for role in ROLES)


def _names(index: Mapping[str, Any], component: str) -> bool:
    return bool(index.get(component, [None])[0])


def _same_file(existing: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    try:
        os.link(existing, path)
    except OSError:  # a file system without links
        shutil.copyfile(existing, path)


def _shapes(component: str, config: Path) -> dict[str, torch.Size]:
    """Return the shape of every weight, from a network without memory."""
    content = json.loads(config.read_text())
    with torch.device("meta"):
        if component in _ENCODERS:
            network = _ENCODERS[component](CLIPTextConfig(**content))
        else:
            network = _NETWORKS[component].from_config(content)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _write(path: Path, shapes: Mapping[str, Sequence[int]], rng: np.random.Generator) -> None:
    """Write a `.safetensors` file tensor by tensor: the header's length, the header, the tensors (the format's README).

    `safetensors.torch.save_file` would need all of them at once.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + _BYTES * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for data in _tensors(shapes, rng):
            file.write(data)


def _tensors(shapes: Mapping[str, Sequence[int]], rng: np.random.Generator) -> Iterator[bytes]:
    """Yield the bytes of each weight: of torch's default distribution for layers, of an identity for norms."""
    for name, shape in shapes.items():
        if len(shape) > 1:
            bound = 1 / math.sqrt(math.prod(shape[1:]))
            values = torch.from_numpy(rng.random(math.prod(shape), dtype=np.float32))
            tensor = values.mul_(2 * bound).sub_(bound).to(_DTYPE)
        else:
            tensor = torch.full(tuple(shape), 1.0 if name.endswith(".weight") else 0.0, dtype=_DTYPE)
        yield tensor.view(torch.uint8).numpy().tobytes()
