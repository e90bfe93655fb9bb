"""The look at the card before models are loaded, with a card that is not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
import torch

from worker.errors import ModelLoadError, SettingsError
from worker.memory_plan.start import plan_start
from worker.settings import Settings

CUDA = torch.device("cuda")
GB = 10**9


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A card of which all is free, and SDXL's own models; tests change it."""
    # As its driver reports them.
    made = SimpleNamespace(name="RTX 2070", total_memory=7_981 * 2**20, free=7_981 * 2**20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: made)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (made.free, made.total_memory))
    monkeypatch.setattr("worker.memory_plan.asked.read_weights", lambda _id, *, assumed, **_half: assumed)
    return made


def settings(**given: object) -> Settings:
    return Settings.model_validate({"aws_s3_bucket": "pictures", "sdxl_refiner_id": None} | given)


def test_a_small_card_decodes_in_tiles_and_says_so(card: SimpleNamespace) -> None:
    with structlog.testing.capture_logs() as logged:
        assert plan_start(settings(), CUDA, "float16") == (256, True)
    assert [(line["event"], line["card"], line["vae_tile_px"]) for line in logged] == [
        ("memory_planned", card.name, 256)
    ]
    card.total_memory = card.free = 24 * 2**30
    assert plan_start(settings(), CUDA, "float16") == (None, True)


def test_free_memory_decides_nothing_but_whether_the_worker_starts(card: SimpleNamespace) -> None:
    card.total_memory, card.free = 24 * 2**30, 14 * GB
    assert plan_start(settings(), CUDA, "float16") == (None, True)
    card.free = 3 * GB
    with pytest.raises(ModelLoadError, match=r"3\.0 GB free"):
        plan_start(settings(), CUDA, "float16")


@pytest.mark.usefixtures("card")
def test_what_cannot_fit_is_refused_with_what_would() -> None:
    with pytest.raises(SettingsError, match="set VAE_TILE_PX=auto "):
        plan_start(settings(vae_tile_px="none"), CUDA, "float16")


@pytest.mark.parametrize(("setting", "tile_px"), [("auto", None), ("none", None), ("256", 256)])
def test_without_a_card_only_the_setting_decides(setting: str, tile_px: int | None) -> None:
    assert plan_start(settings(vae_tile_px=setting), torch.device("cpu"), "float32") == (tile_px, True)


@pytest.mark.parametrize(
    ("gib", "compile", "second_copy"), [(24, "auto", True), (12, "auto", False), (12, "off", True)]
)
def test_captured_steps_ask_for_the_whole_second_copy_or_none(
    card: SimpleNamespace, tmp_path: Path, gib: int, compile: str, second_copy: bool
) -> None:
    (tmp_path / "style.safetensors").write_bytes(b"1")
    card.total_memory = card.free = gib * 2**30
    asked = settings(sdxl_lora_path=tmp_path, compile=compile)
    assert plan_start(asked, CUDA, "bfloat16").second_copy is second_copy
