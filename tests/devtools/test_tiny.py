"""Properties of the toy model on which the other tests rely."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

from devtools.models.small import MAX_TOKENS
from devtools.models.tiny import write_tiny
from worker.models.load import load_base, load_refiner

SIDE_PX = 64
VISIBLE = 5.0  # of 255, mean over all pixels


@pytest.fixture(scope="module")
def base(toy: Path) -> StableDiffusionXLPipeline:
    return _with_karras(load_base(str(toy / "base"), dtype=torch.float32, device="cpu"))


@pytest.fixture(scope="module")
def refiner(toy: Path, base: StableDiffusionXLPipeline) -> StableDiffusionXLImg2ImgPipeline:
    return _with_karras(load_refiner(str(toy / "refiner"), dtype=torch.float32, device="cpu", share=base))


def test_draws_a_picture_that_is_neither_flat_nor_saturated(base: StableDiffusionXLPipeline) -> None:
    picture = _draw(base)
    assert picture.shape == (SIDE_PX, SIDE_PX, 3)
    assert np.isfinite(picture).all()
    assert picture.std() > VISIBLE
    assert np.mean((picture <= 0) | (picture >= 255)) < 0.05


def test_same_seed_gives_the_same_picture(base: StableDiffusionXLPipeline) -> None:
    assert np.array_equal(_draw(base), _draw(base))


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a dog in the street"},
        {"seed": 1},
        {"guidance_scale": 2.0},
        {"negative_prompt": "ugly"},
        {"steps": 8},
        {"original_size": (1024, 1024)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_parameter_shows(base: StableDiffusionXLPipeline, change: dict[str, Any]) -> None:
    difference = np.abs(_draw(base) - _draw(base, **change)).mean()
    assert difference > (0.5 if "original_size" in change else VISIBLE)


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96), (128, 128), (72, 64)])
def test_draws_any_size_in_steps_of_eight_pixels(base: StableDiffusionXLPipeline, width: int, height: int) -> None:
    assert _draw(base, steps=1, width=width, height=height).shape == (height, width, 3)


def test_refiner_finishes_what_the_base_began(
    base: StableDiffusionXLPipeline, refiner: StableDiffusionXLImg2ImgPipeline
) -> None:
    steps, handover = 10, 0.8
    latents = base(
        "a cat",
        width=SIDE_PX,
        height=SIDE_PX,
        num_inference_steps=steps,
        denoising_end=handover,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).images
    picture = (
        255
        * refiner(
            "a cat",
            image=latents,
            num_inference_steps=steps,
            denoising_start=handover,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images[0]
    )
    assert np.isfinite(picture).all()
    assert picture.std() > VISIBLE
    assert np.abs(picture - _draw(base, steps=steps)).mean() > VISIBLE


def test_weights_depend_on_the_seed_alone(toy: Path, tmp_path: Path) -> None:
    torch.rand(3)
    before = torch.random.get_rng_state()
    write_tiny(tmp_path / "again")
    assert torch.equal(before, torch.random.get_rng_state()), "the caller's generator was disturbed"
    write_tiny(tmp_path / "other", seed=1)
    assert _hashes(tmp_path / "again") == _hashes(toy)
    assert not set(_hashes(tmp_path / "other").values()) & set(_hashes(toy).values())


def test_is_a_few_megabytes(toy: Path) -> None:
    assert sum(path.stat().st_size for path in toy.rglob("*") if path.is_file()) < 16 * 2**20


def test_tokenizers_take_any_text_and_pad_as_the_originals(base: StableDiffusionXLPipeline) -> None:
    text = "Größe, 猫 🐈\t<x>"
    for tokenizer in (base.tokenizer, base.tokenizer_2):
        assert tokenizer.model_max_length == MAX_TOKENS
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.eos_token_id) == 1, "the unknown token is the end token: something was lost"
        assert ids[-1] == tokenizer.eos_token_id == max(tokenizer.get_vocab().values())
        padded = tokenizer("x" * 500, padding="max_length", truncation=True, max_length=MAX_TOKENS).input_ids
        assert len(padded) == MAX_TOKENS
        assert padded[-1] == tokenizer.eos_token_id
    assert base.tokenizer.pad_token_id == base.tokenizer.eos_token_id
    assert base.tokenizer_2.pad_token_id == 0


def test_is_configured_as_the_originals(
    base: StableDiffusionXLPipeline, refiner: StableDiffusionXLImg2ImgPipeline
) -> None:
    assert base.config.force_zeros_for_empty_prompt
    assert not refiner.config.force_zeros_for_empty_prompt
    assert refiner.config.requires_aesthetics_score
    assert refiner.tokenizer is None
    assert refiner.text_encoder is None
    assert base.vae_scale_factor == 8
    assert base.vae.config.force_upcast


def _with_karras(pipeline: Any) -> Any:
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True)
    return pipeline


def _draw(
    pipeline: StableDiffusionXLPipeline,
    *,
    prompt: str = "a cat",
    seed: int = 0,
    steps: int = 4,
    width: int = SIDE_PX,
    height: int = SIDE_PX,
    **options: Any,
) -> npt.NDArray[np.float32]:
    picture: npt.NDArray[np.float32] = pipeline(
        prompt,
        width=width,
        height=height,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
        **options,
    ).images[0]
    return picture * 255


def _hashes(directory: Path) -> dict[str, str]:
    return {
        file.relative_to(directory).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in directory.rglob("*.safetensors")
    }
