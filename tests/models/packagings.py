"""Ways in which SDXL models are packed: each writes the toy anew, in a good, unusual or broken way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Weights = dict[str, torch.Tensor]
Pack = Callable[[Path], object]

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
FIRST = "text_encoder/model.safetensors"
SECOND = "text_encoder_2/model.safetensors"
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 5135149760\n".format("0" * 64)


def changed(name: str, change: Callable[[Weights], Weights]) -> Pack:
    """Change the weights of a file."""

    def pack(folder: Path) -> None:
        weights = {key: tensor.contiguous() for key, tensor in change(load_file(folder / name)).items()}
        save_file(weights, folder / name, metadata={"format": "pt"})

    return pack


def without(name: str, part: str) -> Pack:
    return changed(name, lambda weights: {key: tensor for key, tensor in weights.items() if part not in key})


def prefixed(name: str, prefix: str) -> Pack:
    return changed(name, lambda weights: {prefix + key: tensor for key, tensor in weights.items()})


def extended(name: str, **tensors: torch.Tensor) -> Pack:
    return changed(name, lambda weights: weights | tensors)


def cast(name: str, dtype: torch.dtype) -> Pack:
    return changed(name, lambda weights: {key: tensor.to(dtype) for key, tensor in weights.items()})


def configured(name: str, **entries: Any) -> Pack:
    """Set entries of a JSON file; None takes one out."""

    def pack(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | entries
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return pack


def absent(name: str) -> Pack:
    def pack(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return pack


def cut(name: str, byte_count: int) -> Pack:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:byte_count])


def replaced(name: str, text: str) -> Pack:
    return lambda folder: (folder / name).write_text(text)


def renamed(name: str, other: str) -> Pack:
    return lambda folder: (folder / name).rename(folder / other)


def vocabulary_file_pair(tokenizer: str, *, tokens: int | None = None) -> Pack:
    """Write a tokenizer as CLIP's own two files; `tokens` cuts its vocabulary short."""

    def pack(folder: Path) -> None:
        whole = folder / tokenizer / "tokenizer.json"
        model = json.loads(whole.read_text())["model"]
        kept = dict(list(model["vocab"].items())[:tokens])
        (folder / tokenizer / "vocab.json").write_text(json.dumps(kept))
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        (folder / tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
        whole.unlink()

    return pack


def unmerged_token(folder: Path) -> None:
    """Write a tokenizer that lacks the merge of one of its tokens, in the place of a letter that nobody uses."""
    path = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["cat</w>"] = vocabulary.pop("ÿ</w>")
    path.write_text(json.dumps(content))


def sharded(folder: Path) -> None:
    """Split the UNet into parts, as `save_pretrained` does beyond 10 GB."""
    weights = load_file(folder / UNET)
    (folder / UNET).unlink()
    names = sorted(weights)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / "unet" / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def both(*packs: Pack) -> Pack:
    def pack(folder: Path) -> None:
        for one in packs:
            one(folder)

    return pack


def _variant(name: str) -> str:
    return name.replace(".safetensors", ".fp16.safetensors")


all_in_fp16 = both(
    *(both(cast(name, torch.float16), renamed(name, _variant(name))) for name in (UNET, VAE, FIRST, SECOND))
)
