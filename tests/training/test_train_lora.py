"""`models train-lora` on the toy SDXL: the worker can load the result by name, and errors say what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from typer.testing import CliRunner

from devtools.bench.quality.lora import LESSONS, write_dataset
from devtools.models.tiny import write_tiny
from worker.cli import app
from worker.engine.lora.cache import LoraCache
from worker.engine.pipeline import SdxlModel
from worker.models.load import load_base
from worker.training.dataset import TrainingError
from worker.training.lora import Recipe, train_lora

pytestmark = pytest.mark.slow

RECIPE = Recipe(resolution=64, rank=4, batch_size=2, max_steps=3, learning_rate=1e-2)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("toy")
    write_tiny(directory)
    return directory / "base"


@pytest.fixture(scope="module")
def moons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "moons"
    write_dataset(folder, LESSONS[0], count=6)
    return folder


def nothing(*_: object) -> None:
    pass


def is_up(key: str) -> bool:
    return ".lora_B." in key


def train(toy: Path, moons: Path, file: Path, recipe: Recipe, progress: Callable[..., None] = nothing) -> Path:
    return train_lora(str(toy), moons, file, recipe, device="cpu", progress=progress)


@pytest.mark.parametrize(
    ("recipe", "kinds"),
    [
        (RECIPE, {"unet"}),
        (replace(RECIPE, convolutions=True, text_encoders=True), {"unet", "text_encoder", "text_encoder_2"}),
    ],
    ids=["attention", "everything"],
)
def test_the_worker_loads_what_was_trained(
    toy: Path, moons: Path, tmp_path: Path, recipe: Recipe, kinds: set[str]
) -> None:
    file = train(toy, moons, tmp_path / "moon.safetensors", recipe)
    tensors = load_file(file)
    assert {key.partition(".")[0] for key in tensors} == kinds
    assert any("conv" in key for key in tensors) == recipe.convolutions
    for kind in kinds:
        # They start at zero. A text encoder's last layer is not read by SDXL, so it learns nothing.
        ups = [tensor for key, tensor in tensors.items() if key.startswith(f"{kind}.") and is_up(key)]
        assert ups
        assert sum(bool(tensor.any()) for tensor in ups) >= len(ups) / 2
    base = load_base(str(toy), dtype=torch.float32, device="cpu")
    lora_cache = LoraCache(base, tmp_path, capacity=2)
    loras = (("moon", 0.8),)
    lora_cache.check(loras)
    lora_cache.acquire(loras)
    assert lora_cache.loaded == 1
    assert bool(lora_cache.text_key(loras)) == recipe.text_encoders
    lora_cache.free()


def test_stock_diffusers_loads_every_layer_and_draws_the_same(toy: Path, moons: Path, tmp_path: Path) -> None:
    file = train(toy, moons, tmp_path / "moon.safetensors", replace(RECIPE, convolutions=True, text_encoders=True))
    tensors = load_file(file)
    assert all(re.search(r"\.lora_[AB]\.weight$", key) for key in tensors), "one layout"
    pipe = StableDiffusionXLPipeline.from_pretrained(toy)
    pipe.load_lora_weights(file)
    loaded = {
        f"{component}.{name.removeprefix('text_model.')}"
        for component in ("unet", "text_encoder", "text_encoder_2")
        for name, module in getattr(pipe, component).named_modules()
        if hasattr(module, "lora_A")
    }
    assert loaded == {re.sub(r"\.text_model|\.lora_[AB]\.weight$", "", key) for key in tensors}
    model = SdxlModel(load_base(str(toy), dtype=torch.float32, device="cpu"), lora_dir=tmp_path)
    ours = _condition_and_predict(model.base, _applied(model))
    theirs = _condition_and_predict(pipe, nullcontext())
    without = _condition_and_predict(model.base, nullcontext())
    for mine, reference, bare in zip(ours, theirs, without, strict=True):
        assert torch.allclose(mine, reference, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(mine, bare, atol=1e-3)


@contextmanager
def _applied(model: SdxlModel) -> Iterator[None]:
    loras = [("moon", 1.0)]
    model.lora_cache.acquire(loras)
    with model.lora_cache.text(loras), model.lora_cache.batch(model.lora_cache.mix([loras])):
        yield


@torch.inference_mode()
def _condition_and_predict(pipe: Any, applied: AbstractContextManager[None]) -> tuple[torch.Tensor, ...]:
    """The prompt's embeddings, and the UNet's prediction with them."""
    with applied:
        prompt, _, pooled, _ = pipe.encode_prompt("a moon", do_classifier_free_guidance=False)
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        added = {"text_embeds": pooled, "time_ids": torch.zeros(1, 6)}
        predicted = pipe.unet(latents, 500, prompt, added_cond_kwargs=added, return_dict=False)[0]
        return prompt, predicted


def test_the_same_seed_gives_the_same_file_and_another_does_not(toy: Path, moons: Path, tmp_path: Path) -> None:
    one, again, other = (
        train(toy, moons, tmp_path / f"{name}.safetensors", replace(RECIPE, seed=seed))
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    )
    # Not the bytes: safetensors writes its header's entries in any order.
    first, second, third = load_file(one), load_file(again), load_file(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    assert not all(torch.equal(tensor, third[key]) for key, tensor in first.items())


def test_gradients_accumulate_over_batches(toy: Path, moons: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    recipe = replace(RECIPE, max_steps=None, epochs=2, gradient_accumulation=2)
    train(toy, moons, tmp_path / "a.safetensors", recipe, lambda done, total, _: seen.append((done, total)))
    # Three batches of two an epoch, so two updates of it: one of two batches, one of the last.
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (replace(RECIPE, mixed_precision="fp8"), "'fp8' is not one of no, fp16, bf16"),
        (replace(RECIPE, resolution=66), "resolution 66 is not a multiple of 8"),
    ],
)
def test_a_recipe_that_cannot_be_is_named(toy: Path, moons: Path, tmp_path: Path, recipe: Recipe, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train(toy, moons, tmp_path / "a.safetensors", recipe)


def test_the_guides_command_line_works(toy: Path, moons: Path, tmp_path: Path) -> None:
    guide = ["--pretrained_model_name_or_path", str(toy), "--dataset_name", str(moons), "--output_dir", str(tmp_path)]
    more = ["--resolution", "64", "--train_batch_size", "6", "--num_train_epochs", "1", "--json"]
    result = CliRunner().invoke(app, ["models", "train-lora", *guide, *more], env={"DEVICE": "cpu"})
    assert result.exit_code == 0, result.output
    assert (tmp_path / "moons.safetensors").is_file()
    assert '"lora": "moons"' in result.stdout or '"lora":"moons"' in result.stdout
    wrong = CliRunner().invoke(app, ["models", "train-lora", *guide[:2], "--dataset_name", "none", *guide[4:]])
    assert wrong.exit_code != 0
    assert "none is not a folder" in str(wrong.exception) + wrong.output
