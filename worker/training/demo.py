"""The demo SDXL: every part trained from nothing, on pictures this package draws, into diffusers' folder layout."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

from worker.models.load import silence_progress
from worker.training.demo_unet import Base, Refiner, build_base_unet, build_refiner_unet
from worker.training.demo_vae import build_vae, encode, train_vae
from worker.training.fit import Progress, build_scheduler, fit
from worker.training.pixels import to_tensor
from worker.training.scenes import Scene, draw, random_scene
from worker.training.vocabulary import text_encoders, tokenizers

VAE_STEPS = 5_000
BASE_STEPS = 7_000
REFINER_STEPS = 1_500
PICTURES = 16_000
_TIMESTEPS = 1_000
# The worker hands over at 200 (`engine/samplers.py`); a little above it is learnt too.
_REFINER_BELOW = 300


def train_demo(
    directory: Path,
    *,
    seed: int = 0,
    vae_steps: int = VAE_STEPS,
    base_steps: int = BASE_STEPS,
    refiner_steps: int = REFINER_STEPS,
    pictures: int = PICTURES,
    progress: Progress,
) -> None:
    """Write `directory/base` and `directory/refiner`; a stage whose files are there, from a run cut off, is kept.

    The same seed gives the same weights on the same kind of CPU with the same number of threads: bfloat16 products
    are rounded differently by different instruction sets.
    """
    silence_progress()
    base_dir, refiner_dir = directory / "base", directory / "refiner"
    with torch.random.fork_rng(devices=[]):
        if not (base_dir / "vae" / "config.json").exists():
            _train_vae(base_dir / "vae", vae_steps, seed, progress)
        # Read back, so that a run cut off here and one that was not go on from the same weights.
        vae = AutoencoderKL.from_pretrained(base_dir / "vae", local_files_only=True).eval().requires_grad_(False)
        scenes, latents = _dataset(vae, pictures, seed)
        if not (base_dir / "model_index.json").exists():
            _train_base(base_dir, vae, (scenes, latents), base_steps, seed, progress)
        base = StableDiffusionXLPipeline.from_pretrained(base_dir, local_files_only=True)
        if not (refiner_dir / "model_index.json").exists():
            _train_refiner(refiner_dir, base, (scenes, latents), refiner_steps, seed, progress)


def _train_vae(directory: Path, steps: int, seed: int, progress: Progress) -> None:
    torch.manual_seed(seed)
    vae = build_vae()
    train_vae(vae, steps, seed, lambda *done: progress("vae", *done))
    vae.half().save_pretrained(directory, safe_serialization=True)


def _train_base(
    directory: Path,
    vae: AutoencoderKL,
    pictures: tuple[list[Scene], torch.Tensor],
    steps: int,
    seed: int,
    progress: Progress,
) -> None:
    # Module constructors draw from torch's global generator only.
    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = tokenizers()
    text_encoder, text_encoder_2 = text_encoders(tokenizer)
    trainee = Base(build_base_unet(), text_encoder, text_encoder_2, tokenizer, tokenizer_2)
    fit(trainee, *pictures, steps=steps, below=_TIMESTEPS, seed=seed, progress=lambda *done: progress("base", *done))
    _save(base_pipeline(vae, trainee), directory)


def base_pipeline(vae: AutoencoderKL, trainee: Base) -> StableDiffusionXLPipeline:
    """The parts as diffusers' pipeline."""
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=trainee.text_encoder,
        text_encoder_2=trainee.text_encoder_2,
        tokenizer=trainee.tokenizer,
        tokenizer_2=trainee.tokenizer_2,
        unet=trainee.unet,
        scheduler=build_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def _train_refiner(
    directory: Path,
    base: StableDiffusionXLPipeline,
    pictures: tuple[list[Scene], torch.Tensor],
    steps: int,
    seed: int,
    progress: Progress,
) -> None:
    torch.manual_seed(seed)
    encoder = base.text_encoder_2.float().eval().requires_grad_(False)
    trainee = Refiner(build_refiner_unet(), encoder, base.tokenizer_2)
    fit(
        trainee,
        *pictures,
        steps=steps,
        below=_REFINER_BELOW,
        seed=seed,
        progress=lambda *done: progress("refiner", *done),
    )
    pipeline = StableDiffusionXLImg2ImgPipeline(
        vae=base.vae,
        text_encoder=None,
        text_encoder_2=encoder,
        tokenizer=None,
        tokenizer_2=base.tokenizer_2,
        unet=trainee.unet,
        scheduler=build_scheduler(),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    _save(pipeline, directory)
    for shared in ("vae", "text_encoder_2", "tokenizer_2"):
        shutil.rmtree(directory / shared)
        (directory / shared).symlink_to(Path("..") / "base" / shared)


def _save(pipeline: StableDiffusionXLPipeline | StableDiffusionXLImg2ImgPipeline, directory: Path) -> None:
    """In half precision; loading widens it again."""
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(directory, safe_serialization=True)


def _dataset(vae: AutoencoderKL, count: int, seed: int) -> tuple[list[Scene], torch.Tensor]:
    """Scenes and their latents at unit deviation, (count, 4, h, w)."""
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    parts = [
        encode(vae, torch.stack([to_tensor(draw(scene)) for scene in scenes[start : start + 64]]))
        for start in range(0, count, 64)
    ]
    return scenes, torch.cat(parts) * vae.config.scaling_factor
