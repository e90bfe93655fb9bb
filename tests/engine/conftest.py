"""Fixtures: the toy SDXL, and LoRAs for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from worker.engine.lora.cache import LoraCache
from worker.models.load import load_base


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
def lora_cache(base: Any, folder: Path) -> Iterator[LoraCache]:
    lora_cache = LoraCache(base, folder, capacity=8)
    yield lora_cache
    lora_cache.free()
