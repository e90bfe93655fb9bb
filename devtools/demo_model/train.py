"""Train all parts of the demo SDXL from scratch, and write them in diffusers' folder layout."""

from __future__ import annotations

import json
import random
import shutil
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

from devtools.demo_model.fit import Spread, build_scheduler, fit
from devtools.demo_model.scenes import (
    ROUGH_SIZES,
    SHAPES,
    SIZES,
    Scene,
    Sizes,
    caption,
    draw,
    loose_caption,
    random_scene,
)
from devtools.demo_model.unet import Base, Finish, Refiner, Speak, build_base_unet, build_refiner_unet
from devtools.demo_model.vae import build_vae, encode, train_vae
from devtools.demo_model.vocabulary import text_encoders, tokenizers
from worker.models.load import silence_progress
from worker.training.pixels import to_tensor
from worker.training.progress import Progress, StageProgress

VAE_STEPS = 5_000
BASE_STEPS = 7_000
REFINER_STEPS = 1_500
FINISH_STEPS = 2_600
LOOSEN_STEPS = 3_600
POLISH_STEPS = 2_600
PICTURES, FINISH_PICTURES, LAST_PICTURES = 16_000, 6_000, 9_000
# Shapes with thin parts appear more often in the last stages. In the very last one, three of four shapes are small,
# because the model draws the others well by then.
_THIN_SHAPES, _THINNEST = (*SHAPES, "star", "star", "cross"), (*SHAPES, "star")
_SMALL: Sizes = {"small": SIZES["small"]}
_TIMESTEPS = 1_000
# The worker hands over to the refiner at timestep 200 (`engine/samplers.py`); training goes a little beyond that.
_REFINER_BELOW = 300
# Edges are decided at timesteps below this; above, latents as small as these are little more than noise.
_EDGES_BELOW, _EDGES_SHARE = 600, 0.8

Pictures = tuple[list[Scene], torch.Tensor]


def train_demo(
    directory: Path,
    *,
    seed: int = 0,
    vae_steps: int = VAE_STEPS,
    base_steps: int = BASE_STEPS,
    refiner_steps: int = REFINER_STEPS,
    finish_steps: int = FINISH_STEPS,
    loosen_steps: int = LOOSEN_STEPS,
    polish_steps: int = POLISH_STEPS,
    pictures: int = PICTURES,
    progress: Progress,
) -> None:
    """Train the model into `directory/base` and `directory/refiner`; finished stages of an earlier run are kept.

    The stages are the VAE, the base with its text encoders, the refiner, and three more stages of the base's UNet:
    `finish` trains the noise levels at which edges are decided; `loosen` trains all levels with captions that omit
    much, which makes negative prompts effective; `polish` trains the edges again, mostly of small shapes.

    The same seed gives the same weights on the same kind of CPU with the same number of threads, because instruction
    sets round bfloat16 products differently.
    """
    silence_progress()
    base, refiner = directory / "base", directory / "refiner"
    vae = base / "vae"
    first, second, third = (directory / f"{name}-course" for name in ("first", "second", "third"))
    if _is_there(base) and _is_there(refiner):
        return
    with torch.random.fork_rng(devices=[]):
        if not (vae / "config.json").exists():
            _train_vae(vae, vae_steps, seed, partial(progress, "vae"))
        if not (_is_there(first) and _is_there(refiner)):
            rough = _dataset(vae, pictures, seed, ROUGH_SIZES)
            if not _is_there(first):
                _train_base(first, vae, rough, base_steps, seed, partial(progress, "base"))
            if not _is_there(refiner):
                _train_refiner(refiner, first, rough, refiner_steps, seed, partial(progress, "refiner"))
        if not _is_there(second):
            finish = _dataset(vae, min(pictures, FINISH_PICTURES), seed, SIZES)
            _go_on(second, first, finish, finish_steps, seed, partial(progress, "finish"), spread=_where_edges_are)
        many = min(pictures, LAST_PICTURES)
        if not _is_there(third):
            loosen, report = _dataset(vae, many, seed + 1, SIZES, _THIN_SHAPES), partial(progress, "loosen")
            _go_on(third, second, loosen, loosen_steps, seed + 1, report, spread=_evenly, speak=loose_caption)
        small = _dataset(vae, many * 3 // 4, seed + 2, _SMALL, _THINNEST)
        mixed = _dataset(vae, many // 4, seed + 3, SIZES, _THINNEST)
        polish, report = (small[0] + mixed[0], torch.cat([small[1], mixed[1]])), partial(progress, "polish")
        _go_on(base, third, polish, polish_steps, seed + 2, report, spread=_where_edges_are, speak=loose_caption)
    for shared in ("vae", "text_encoder_2", "tokenizer_2"):
        shutil.rmtree(refiner / shared)
        (refiner / shared).symlink_to(Path("..") / "base" / shared)
    for course in (first, second, third):
        shutil.rmtree(course)


def _is_there(directory: Path) -> bool:
    return (directory / "model_index.json").exists()


def _train_vae(directory: Path, steps: int, seed: int, progress: StageProgress) -> None:
    torch.manual_seed(seed)
    vae = build_vae()
    train_vae(vae, steps, seed, progress)
    vae.half().save_pretrained(directory, safe_serialization=True)


def _train_base(
    directory: Path,
    vae_dir: Path,
    pictures: Pictures,
    steps: int,
    seed: int,
    progress: StageProgress,
) -> None:
    # Constructors of modules can only draw from torch's global generator.
    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = tokenizers()
    text_encoder, text_encoder_2 = text_encoders(tokenizer)
    trainee = Base(build_base_unet(), text_encoder, text_encoder_2, tokenizer, tokenizer_2)
    fit(
        trainee,
        *pictures,
        steps=steps,
        spread=_evenly,
        learning_rate=1e-3,
        seed=seed,
        progress=progress,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=_load_vae(vae_dir),
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=trainee.unet,
        scheduler=build_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    _save(pipeline, directory)


def _train_refiner(
    directory: Path,
    first: Path,
    pictures: Pictures,
    steps: int,
    seed: int,
    progress: StageProgress,
) -> None:
    torch.manual_seed(seed)
    base = StableDiffusionXLPipeline.from_pretrained(first, local_files_only=True)
    encoder = base.text_encoder_2.float().eval().requires_grad_(False)
    trainee = Refiner(build_refiner_unet(), encoder, base.tokenizer_2)
    fit(
        trainee,
        *pictures,
        steps=steps,
        spread=lambda share: share * _REFINER_BELOW,
        learning_rate=1e-3,
        seed=seed,
        progress=progress,
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


def _go_on(
    directory: Path,
    before: Path,
    pictures: Pictures,
    steps: int,
    seed: int,
    progress: StageProgress,
    *,
    spread: Spread,
    speak: Speak = caption,
) -> None:
    """Train the base in folder `before` for another stage, and write it to `directory`."""
    base = StableDiffusionXLPipeline.from_pretrained(before, local_files_only=True)
    # The text encoders are loaded in half precision, as they are stored.
    for encoder in (base.text_encoder, base.text_encoder_2):
        encoder.float().eval().requires_grad_(False)
    encoders = base.text_encoder, base.text_encoder_2, base.tokenizer, base.tokenizer_2
    trainee = Finish(base.unet.float(), *encoders, speak)
    fit(
        trainee,
        *pictures,
        steps=steps,
        spread=spread,
        learning_rate=6e-4,
        seed=seed,
        progress=progress,
    )
    _save(base, directory)


def _evenly(share: torch.Tensor) -> torch.Tensor:
    return share * _TIMESTEPS


def _where_edges_are(share: torch.Tensor) -> torch.Tensor:
    early = share / _EDGES_SHARE * _EDGES_BELOW
    late = _EDGES_BELOW + (share - _EDGES_SHARE) / (1 - _EDGES_SHARE) * (_TIMESTEPS - _EDGES_BELOW)
    return torch.where(share < _EDGES_SHARE, early, late).clamp(max=_TIMESTEPS - 1)


def _save(pipeline: StableDiffusionXLPipeline | StableDiffusionXLImg2ImgPipeline, directory: Path) -> None:
    """Save a pipeline in half precision; it is converted back when it is loaded."""
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(directory, safe_serialization=True)
    # The paths from which the parts were loaded are of no use to others.
    for file in directory.rglob("*.json"):
        entries = json.loads(file.read_text())
        if entries.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(entries, indent=2) + "\n")


def _load_vae(directory: Path) -> AutoencoderKL:
    # Always loaded as it is stored, so that interrupted and uninterrupted runs continue from the same weights.
    return AutoencoderKL.from_pretrained(directory, local_files_only=True).eval().requires_grad_(False)


def _dataset(vae_dir: Path, count: int, seed: int, sizes: Sizes, shapes: tuple[str, ...] = SHAPES) -> Pictures:
    """Return random scenes, and their latents scaled to unit deviation, (count, 4, h, w)."""
    rng, vae = random.Random(seed), _load_vae(vae_dir)
    scenes = [random_scene(rng, shapes, sizes) for _ in range(count)]
    parts = [
        encode(vae, torch.stack([to_tensor(draw(scene)) for scene in scenes[start : start + 64]]))
        for start in range(0, count, 64)
    ]
    return scenes, torch.cat(parts) * vae.config.scaling_factor
