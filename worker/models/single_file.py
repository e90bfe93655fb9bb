"""Load an SDXL in one `.safetensors` file; its configurations and tokenizers come with the worker.

Such a file holds weights only, in the layout of Stability's own code. All of them are fine-tunes of SDXL's base or
refiner, so that the configurations of these two describe them; a folder in diffusers' layout beside the file, with its
name without the suffix, is used in their place.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    SingleFileComponentError,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from worker.errors import ModelLoadError
from worker.models.components import check_loaded
from worker.models.formulation import LATENT_CHANNELS, check_keys, check_scheduler, check_unet, scheduler_options
from worker.models.packaging import check_folder, check_single_file, read_index
from worker.models.weight_file import Tensor

SHIPPED = Path(__file__).parent / "shipped"
MERGES = SHIPPED / "clip_merges.txt.gz"

_UNET = "model.diffusion_model."
_FIRST_CONVOLUTION = f"{_UNET}input_blocks.0.0.weight"
_GUIDANCE_EMBEDDING = f"{_UNET}time_embed.cond_proj.weight"
_ENCODERS = "conditioner.embedders."
# A key of each part, with what to call the part. They tell SDXL from others, and a model from a part of one.
_PARTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "base": (
        ("its UNet", _FIRST_CONVOLUTION),
        ("its size embedding", f"{_UNET}label_emb.0.0.weight"),
        ("its first text encoder", f"{_ENCODERS}0.transformer.text_model.embeddings.token_embedding.weight"),
        ("its first text encoder", f"{_ENCODERS}0.transformer.text_model.embeddings.position_embedding.weight"),
        ("its second text encoder", f"{_ENCODERS}1.model.token_embedding.weight"),
        ("its second text encoder", f"{_ENCODERS}1.model.positional_embedding"),
        ("its second text encoder", f"{_ENCODERS}1.model.text_projection"),
        ("its VAE", "first_stage_model.decoder.conv_in.weight"),
    ),
    "refiner": (
        ("its UNet", _FIRST_CONVOLUTION),
        ("its size embedding", f"{_UNET}label_emb.0.0.weight"),
        ("its text encoder", f"{_ENCODERS}0.model.token_embedding.weight"),
        ("its text encoder", f"{_ENCODERS}0.model.positional_embedding"),
        ("its text encoder", f"{_ENCODERS}0.model.text_projection"),
        ("its VAE", "first_stage_model.decoder.conv_in.weight"),
    ),
}
_MAX_TOKENS = 77
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


def config_files(file: Path, header: Collection[str]) -> list[Path]:
    """Return the configurations and tokenizers that `load_single_file` reads for `file`, in a stable order."""
    folder = _config_beside(file)
    if folder is None:
        return [*sorted((SHIPPED / _role(header)).rglob("*.json")), MERGES]
    return sorted(path for path in folder.rglob("*") if path.suffix in {".json", ".txt"})


def load_single_file(
    kind: Any, role: str, model_id: str, file: Path, config: Path | None, options: dict[str, Any]
) -> Any:
    """Return the pipeline of class `kind` from `file`.

    Args:
        role: `base` or `refiner`.
        config: a folder in diffusers' layout; default: the one beside the file, else what comes with the worker.
        options: further arguments of diffusers' `from_single_file`.

    Raises:
        ModelLoadError: the file is not a whole SDXL of this role; the message names the first missing key.
        OSError, ValueError, KeyError, RuntimeError, SingleFileComponentError: as raised by the libraries.
    """
    header = check_single_file(model_id, file)
    _check_parts(model_id, role, header)
    folder = config or _config_beside(file)
    if folder is None:
        options = options | _shipped_tokenizers(role)
        folder = SHIPPED / role
    else:
        check_folder(model_id, folder, (), read_index(model_id, folder))
    check_scheduler(model_id, _config(folder, "scheduler/scheduler_config.json"))
    check_unet(model_id, _config(folder, "unet/config.json"))
    try:
        pipeline = kind.from_single_file(str(file), config=str(folder), local_files_only=True, **options)
    except KeyError as error:
        raise ModelLoadError(f"{model_id} is not complete: it has no {error.args[0]}.") from error
    except NotImplementedError as error:
        # diffusers cannot move a network with a weight that the file did not give.
        missing = _first_missing(folder, header)
        if missing is None:
            raise
        raise ModelLoadError(f"{model_id} is not complete: its {missing}.") from error
    except SingleFileComponentError as error:
        raise ModelLoadError(f"{model_id} is not complete: {str(error.message).splitlines()[0]}") from error
    check_loaded(
        model_id,
        {name: part for name, part in pipeline.components.items() if hasattr(part, "state_dict")},
    )
    stated = scheduler_options(header)
    if stated:
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **stated)
    return pipeline


def _config_beside(file: Path) -> Path | None:
    folder = file.with_suffix("")
    return folder if (folder / "model_index.json").is_file() else None


def _role(header: Collection[str]) -> str:
    return "base" if any(name.startswith(f"{_ENCODERS}0.transformer.") for name in header) else "refiner"


def _check_parts(model_id: str, role: str, header: Mapping[str, Tensor]) -> None:
    check_keys(model_id, header)
    if _FIRST_CONVOLUTION in header and header[_FIRST_CONVOLUTION].shape[1] != LATENT_CHANNELS:
        channels = header[_FIRST_CONVOLUTION].shape[1]
        raise ModelLoadError(
            f"{model_id} is not an SDXL {role}: its UNet takes {channels} channels in place of"
            f" {LATENT_CHANNELS}, as for inpainting."
        )
    if _GUIDANCE_EMBEDDING in header:
        raise ModelLoadError(f"{model_id} has a UNet with embedded guidance, which the worker cannot draw.")
    for part, key in _PARTS[role]:
        if key not in header:
            raise ModelLoadError(
                f"{model_id} is not an SDXL {role} in one file: {part} is not whole ({key} is missing)."
            )


def _config(folder: Path, name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return config


def _first_missing(folder: Path, header: Mapping[str, Tensor]) -> str | None:
    """Return the component that `header` lacks a weight of, and that weight, as "unet has no conv_in.weight"."""
    held = {name: torch.empty(tensor.shape, device="meta") for name, tensor in header.items()}
    for component, kind, convert in (
        ("unet", UNet2DConditionModel, convert_ldm_unet_checkpoint),
        ("vae", AutoencoderKL, convert_ldm_vae_checkpoint),
    ):
        config = _config(folder, f"{component}/config.json")
        with torch.device("meta"):
            expected = kind.from_config(config).state_dict()
        converted = convert(dict(held), config=config)
        for name in expected:
            if name not in converted:
                return f"{component} has no {name}"
    return None


def _shipped_tokenizers(role: str) -> dict[str, Any]:
    second = clip_tokenizer(pad_token="!")
    return {"tokenizer": clip_tokenizer(pad_token=_EOS) if role == "base" else None, "tokenizer_2": second}


def clip_tokenizer(*, pad_token: str) -> CLIPTokenizer:
    """Build CLIP's tokenizer; SDXL's first one pads with the end token, and its second one with `!`."""
    vocabulary, merges = _clip_vocabulary()
    return CLIPTokenizer(
        vocab=dict(vocabulary),
        merges=list(merges),
        unk_token=_EOS,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=pad_token,
        model_max_length=_MAX_TOKENS,
    )


@cache
def _clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return CLIP's tokens and merges.

    The tokens follow from the merges (Radford et al. 2021, CLIP's `simple_tokenizer.py`): the bytes, the bytes at the
    end of a word, what each merge makes, then the two special ones.
    """
    lines = gzip.decompress(MERGES.read_bytes()).decode().splitlines()
    merges = [(first, second) for first, second in (line.split(" ") for line in lines)]
    letters = _bytes_in_clips_order()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges), _BOS, _EOS]
    return {token: index for index, token in enumerate(tokens)}, merges


def _bytes_in_clips_order() -> list[str]:
    """Return the letters that stand for the 256 bytes: the printable ones for themselves first, in Latin-1's order."""
    alphabet = set(ByteLevel.alphabet())
    own = [chr(code) for code in range(256) if chr(code) in alphabet]
    return [*own, *sorted(alphabet - set(own))]
