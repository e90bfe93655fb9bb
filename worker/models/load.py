"""Load SDXL models as diffusers pipelines, whose components the engine then uses.

fp16 and the VAE: SDXL's stock VAE overflows in fp16 and yields NaN. Its config sets `force_upcast`, which is kept:
code that decodes with an fp16 VAE must move it to float32 first, as `StableDiffusionXLPipeline.__call__` does. bf16
does not need this.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from worker.errors import ModelLoadError, SettingsError
from worker.models.cuda import cuda_trouble
from worker.models.pull import ModelFiles, locate

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
LATENT_CHANNELS = 4
FINGERPRINT_HEX_DIGITS = 16

_Pipeline = TypeVar("_Pipeline", StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline)
# Errors that the libraries raise for files that are missing, truncated, or of another architecture.
_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, SingleFileComponentError)
_LFS_BLOB = re.compile(r"[0-9a-f]{64}")


def load_base(
    model_id: str,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    cache_dir: Path | None = None,
    single_file_config: Path | None = None,
    channels_last: bool = False,
) -> StableDiffusionXLPipeline:
    """Load an SDXL base: a hub id, a folder in diffusers' layout, or a `.safetensors` file.

    Args:
        model_id: models given by hub id are downloaded if they are not cached; half precision uses the
            repository's `fp16` files if there are any.
        cache_dir: cache folder for hub models; default: the hub client's own.
        single_file_config: a folder in diffusers' layout whose configs and tokenizers describe the
            single file. Default: a folder next to the file that has its name without the suffix; without one,
            diffusers recognises the architecture by the keys and takes the configs from the hub.
        channels_last: use the memory layout that suits tensor cores for the UNet and the VAE; CUDA only.

    Returns:
        A pipeline in eval mode, without gradients, progress bars or watermark.

    Raises:
        ModelLoadError: the model is missing, pickled, not an SDXL base, or too large for the device.
    """
    files = locate(model_id, half=_is_half(dtype), cache_dir=cache_dir)
    pipeline = _read(StableDiffusionXLPipeline, files, dtype, cache_dir, single_file_config)
    if pipeline.text_encoder is None or pipeline.text_encoder_2 is None:
        raise ModelLoadError(f"{model_id} is not an SDXL base: it lacks one of the two text encoders.")
    _check_unet(model_id, pipeline)
    return _settle(model_id, pipeline, device, channels_last)


def load_refiner(
    model_id: str,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    share: StableDiffusionXLPipeline | None = None,
    cache_dir: Path | None = None,
    single_file_config: Path | None = None,
    channels_last: bool = False,
) -> StableDiffusionXLImg2ImgPipeline:
    """Load an SDXL refiner; further arguments, result and errors are those of `load_base`.

    Args:
        share: a loaded base. Its second text encoder and VAE replace the refiner's if the config and every
            weight are equal, which saves 1.6 GB in half precision.
    """
    files = locate(model_id, half=_is_half(dtype), cache_dir=cache_dir)
    refiner = _read(StableDiffusionXLImg2ImgPipeline, files, dtype, cache_dir, single_file_config)
    if refiner.text_encoder_2 is None or not refiner.config.requires_aesthetics_score:
        raise ModelLoadError(f"{model_id} is not an SDXL refiner: it does not take an aesthetic score.")
    _check_unet(model_id, refiner)
    if share is not None:
        _share(refiner, share)
    return _settle(model_id, refiner, device, channels_last)


def fingerprint(model_id: str, *, dtype: torch.dtype, cache_dir: Path | None = None) -> str:
    """Return 16 hex digits that identify the weights that are loaded for a model id at this precision.

    The fingerprint covers every byte. For a single file it is the start of its SHA-256; for several files it is the
    start of the SHA-256 over their sorted component names and SHA-256s. This reads all files once per start (7 GB
    take 5 to 20 s); sampling would be faster, but could not tell apart two fine-tunes that differ in one layer. In
    the hub's cache a file is named by its SHA-256, and that name is trusted: this is free, but does not detect a
    file that was damaged later.

    Raises:
        ModelLoadError: as raised by `load_base`.
    """
    files = locate(model_id, half=_is_half(dtype), cache_dir=cache_dir)
    if files.is_single_file:
        return _sha256(files.root)[:FINGERPRINT_HEX_DIGITS]
    lines = sorted(f"{path.parent.name} {_sha256(path)}\n" for path in files.weights)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:FINGERPRINT_HEX_DIGITS]


def resolve_device(spec: str) -> torch.device:
    """Return the device for `auto`, `cuda`, `cuda:1`, `mps` or `cpu`.

    Raises:
        SettingsError: the device is unknown, or not available on this machine; for `auto` too where there is a GPU that
            torch cannot use, since a CPU takes minutes for a picture.
    """
    if spec == "auto":
        spec = _best_device()
        if spec != "mps":
            _refuse_unusable_gpu(0)
    try:
        device = torch.device(spec)
    except RuntimeError as error:
        raise SettingsError(f"{spec!r} is not a device: use auto, cuda, cuda:N, mps or cpu.") from error
    if device.type == "cuda":
        _refuse_unusable_gpu(device.index or 0)
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise SettingsError(f"device {spec} is not available: torch sees {count} CUDA devices.")
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError("device mps is not available on this machine.")
    elif device.type not in {"cuda", "mps", "cpu"}:
        raise SettingsError(f"device {spec} is not supported: use auto, cuda, cuda:N, mps or cpu.")
    return device


def resolve_dtype(spec: str, device: torch.device | str) -> torch.dtype:
    """Return the dtype for `auto` or a name from `DTYPES`.

    `auto` is bf16 on a CUDA device that supports it, fp16 on any other GPU, and float32 on a CPU.

    Raises:
        SettingsError: the name is unknown.
    """
    if spec != "auto":
        if spec not in DTYPES:
            raise SettingsError(f"{spec!r} is not a dtype: use auto, {', '.join(DTYPES)}.")
        return DTYPES[spec]
    kind = torch.device(device).type
    if kind == "cuda":
        # By default torch counts emulated bf16 (Turing, Volta) as supported, but it is slower than fp16 there.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.float16 if kind == "mps" else torch.float32


def silence_progress() -> None:
    """Turn off the progress bars of diffusers and transformers in this process."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def _read(
    kind: type[_Pipeline],
    files: ModelFiles,
    dtype: torch.dtype,
    cache_dir: Path | None,
    single_file_config: Path | None,
) -> _Pipeline:
    silence_progress()
    # The worker marks its pictures in their metadata. diffusers' watermark is off, because whether it is added
    # would depend on whether an optional package is installed.
    options: dict[str, Any] = {"dtype": dtype, "add_watermarker": False, "cache_dir": cache_dir}
    try:
        if files.is_single_file:
            config = single_file_config or _config_beside(files.root)
            if config is not None:
                options |= {"config": str(config), "local_files_only": True}
            return kind.from_single_file(str(files.root), **options)
        return kind.from_pretrained(
            files.root, variant=files.variant, use_safetensors=True, local_files_only=True, **options
        )
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise ModelLoadError(f"{files.model_id} cannot be loaded as {kind.__name__}: {reason}") from error


def _config_beside(file: Path) -> Path | None:
    folder = file.with_suffix("")
    return folder if (folder / "model_index.json").is_file() else None


def _check_unet(model_id: str, pipeline: StableDiffusionXLPipeline | StableDiffusionXLImg2ImgPipeline) -> None:
    config = pipeline.unet.config
    if config.addition_embed_type != "text_time" or config.in_channels != LATENT_CHANNELS:
        raise ModelLoadError(f"{model_id} is not an SDXL text-to-image model (its UNet has another architecture).")


def _settle(model_id: str, pipeline: _Pipeline, device: torch.device | str, channels_last: bool) -> _Pipeline:
    try:
        pipeline.to(device)
    except torch.OutOfMemoryError as error:
        raise ModelLoadError(f"{model_id} does not fit into the memory of {device}.") from error
    for module in _modules(pipeline).values():
        module.eval().requires_grad_(False)
    if channels_last:
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _share(refiner: StableDiffusionXLImg2ImgPipeline, base: StableDiffusionXLPipeline) -> None:
    ours, theirs = _modules(base), _modules(refiner)
    for name in ("text_encoder_2", "vae"):
        if _equal(ours[name], theirs[name]):
            refiner.register_modules(**{name: ours[name]})


def _equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    weights, others = one.state_dict(), other.state_dict()
    return (
        _architecture(one) == _architecture(other)
        and weights.keys() == others.keys()
        and all(torch.equal(tensor.to(others[name].device), others[name]) for name, tensor in weights.items())
    )


def _architecture(module: torch.nn.Module) -> dict[str, Any]:
    """Return the config without the entries that name its origin and the release that wrote it."""
    config: Any = module.config
    entries = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    origin = {"transformers_version", "dtype", "torch_dtype"}
    return {name: value for name, value in entries.items() if name[0] != "_" and name not in origin}


def _modules(
    pipeline: StableDiffusionXLPipeline | StableDiffusionXLImg2ImgPipeline,
) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def _is_half(dtype: torch.dtype) -> bool:
    return dtype in {torch.float16, torch.bfloat16}


def _refuse_unusable_gpu(index: int) -> None:
    trouble = cuda_trouble(index)
    if trouble is not None:
        raise SettingsError(f"DEVICE: {trouble}")


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _sha256(file: Path) -> str:
    blob = file.resolve()
    if blob.parent.name == "blobs" and _LFS_BLOB.fullmatch(blob.name):
        return blob.name
    with blob.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
