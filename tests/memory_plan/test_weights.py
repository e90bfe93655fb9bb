"""Models' sizes from the headers of their files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from worker.errors import ModelLoadError
from worker.memory_plan.weights import SDXL_BASE, UNET, VAE, read_weights


@pytest.mark.parametrize("role", ["base", "refiner"])
def test_a_folder(toy: Path, role: str) -> None:
    read = read_weights(str(toy / role), half=False, assumed=SDXL_BASE)
    assert not read.assumed
    for component in read.networks:
        [file] = (toy / role / component).glob("*.safetensors")
        assert read.count(component) == sum(tensor.numel() for tensor in load_file(file).values())
    assert {UNET, VAE} <= read.networks.keys()


def test_a_model_that_is_not_here_counts_as_sdxl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert read_weights("nobody/no-such-model", half=True, assumed=SDXL_BASE) is SDXL_BASE


def test_a_model_that_is_cut_short_is_told(toy: Path, tmp_path: Path) -> None:
    shutil.copytree(toy / "base", tmp_path / "cut")
    [weights] = (tmp_path / "cut" / UNET).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelLoadError, match="cut short"):
        read_weights(str(tmp_path / "cut"), half=False, assumed=SDXL_BASE)
