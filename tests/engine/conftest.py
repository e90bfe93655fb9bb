"""Fixtures: the toy SDXL, and LoRAs for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.engine.lora_files import TEXT, write_kohya, write_peft
from worker.engine import memory
from worker.engine.lora.cache import LoraCache
from worker.engine.pipeline import SdxlModel
from worker.models.load import load_base, load_refiner


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out Python's own collection when memory is freed: 0.1 s each, at hundreds of failures."""
    monkeypatch.setattr(memory, "gc", SimpleNamespace(collect=lambda: 0))


@pytest.fixture(scope="session")
def base(toy: Path) -> Any:
    return load_base(str(toy / "base"), dtype=torch.float32, device="cpu")


@pytest.fixture
def reference(toy: Path) -> Any:
    """A pipeline for diffusers and PEFT to change."""
    return load_base(str(toy / "base"), dtype=torch.float32, device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "loras"
    folder.mkdir()
    return folder


@pytest.fixture
def make_model(toy: Path, folder: Path) -> Callable[..., SdxlModel]:
    """Makes an `SdxlModel` with the toy's two models, beside LoRAs named `one`, `two` and `text`."""

    def make(**options: Any) -> SdxlModel:
        base = load_base(str(toy / "base"), dtype=torch.float32, device="cpu")
        refiner = load_refiner(str(toy / "refiner"), dtype=torch.float32, device="cpu", share=base)
        write_peft(folder / "one.safetensors", base, seed=1, text=TEXT)
        write_kohya(folder / "two.safetensors", base, seed=2, rank=8)
        write_peft(folder / "text.safetensors", base, seed=3, text=TEXT[1:])
        return SdxlModel(base, refiner, lora_dir=folder, **options)

    return make


@pytest.fixture
def lora_cache(base: Any, folder: Path) -> Iterator[LoraCache]:
    lora_cache = LoraCache(base, folder, capacity=8)
    yield lora_cache
    lora_cache.free()
