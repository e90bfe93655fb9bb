"""The full-size model at a toy's size, and the rehearsal as a new user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open

from devtools.models.full import is_whole, write_full
from devtools.rehearsal.pictures import LORA, write_lora
from worker.models.load import load_base, load_refiner
from worker.models.single_file import SHIPPED

ROOT = Path(__file__).resolve().parents[2]
# What makes SDXL large; everything else stays as the configurations have it.
_UNET = {
    "block_out_channels": [32, 64, 64], "transformer_layers_per_block": [1, 1, 2], "attention_head_dim": [1, 2, 2],
    "cross_attention_dim": 64, "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 32 + 6 * 8,
}  # fmt: skip
_REFINER = {
    "block_out_channels": [32, 64, 64, 64], "transformer_layers_per_block": 1, "attention_head_dim": [1, 2, 2, 2],
    "cross_attention_dim": 32, "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 32 + 5 * 8,
}  # fmt: skip
_ENCODER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_SMALL: dict[str, dict[str, Any]] = {
    "base/unet": _UNET,
    "refiner/unet": _REFINER,
    "base/text_encoder": _ENCODER | {"projection_dim": 32},
    "base/text_encoder_2": _ENCODER | {"projection_dim": 32},
    "refiner/text_encoder_2": _ENCODER | {"projection_dim": 32},
    "base/vae": {"block_out_channels": [32, 32, 32, 32]},
    "refiner/vae": {"block_out_channels": [32, 32, 32, 32]},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `models full` writes, with narrower layers."""
    folder = tmp_path_factory.mktemp("full")
    for source in SHIPPED.glob("*/**/*.json"):
        relative = source.relative_to(SHIPPED)
        config = json.loads(source.read_text()) | _SMALL.get(str(relative.parent), {})
        (folder / "configs" / relative).parent.mkdir(parents=True, exist_ok=True)
        (folder / "configs" / relative).write_text(json.dumps(config))
    write_full(folder / "models", configs=folder / "configs")
    return folder / "models"


def test_the_worker_loads_what_is_written_and_shares_what_both_models_have(small: Path) -> None:
    assert is_whole(small)
    base = load_base(str(small / "base"), dtype=torch.bfloat16, device="cpu")
    refiner = load_refiner(str(small / "refiner"), dtype=torch.bfloat16, device="cpu", share=base)
    assert refiner.vae is base.vae
    assert refiner.text_encoder_2 is base.text_encoder_2
    assert {parameter.dtype for parameter in base.unet.parameters()} == {torch.bfloat16}
    weight = base.unet.conv_in.weight.float()
    assert 0.9 < weight.abs().max() * (4 * 3 * 3) ** 0.5 <= 1.01


def test_the_shipped_configurations_are_those_of_sdxl() -> None:
    counts = {}
    for role in ("base", "refiner"):
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(json.loads((SHIPPED / role / "unet/config.json").read_text()))
        counts[role] = sum(parameter.numel() for parameter in unet.parameters())
    # The numbers that the SDXL report gives as 2.6 and 2.3 billion (arXiv:2307.01952).
    assert counts["base"] == 2_567_463_684
    assert round(counts["refiner"] / 1e9, 2) == 2.26


def test_an_interrupted_model_is_not_whole(small: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model_index.json").write_bytes((small / "base" / "model_index.json").read_bytes())
    assert not is_whole(tmp_path)


@pytest.mark.server
@pytest.mark.timeout(240)
def test_the_rehearsal_draws_its_pictures_with_a_real_worker(small: Path, tmp_path: Path) -> None:
    command = ["-m", "worker", "rehearsal", "--model", str(small), "--side", "64", "--steps", "5", "--json"]
    done = subprocess.run(
        [sys.executable, *command, "--out", str(tmp_path / "out")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "KAFKA_BOOTSTRAP_SERVERS": "192.0.2.1:9092"},
        capture_output=True,
        text=True,
        timeout=230,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    drawn = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["job_id"] for record in drawn] == ["plain", "lora", "lora-refined"]
    assert len({record["pixel_sha256"] for record in drawn}) == 3
    assert all(record["cpu_seconds"] > 0 for record in drawn)
    assert all(record["seconds"] > 0 and record["steps"] == 5 for record in drawn)
    assert all(0 < record["peak_gb"] < 24 for record in drawn)


def test_the_lora_has_every_attention_of_the_unet(tmp_path: Path) -> None:
    write_lora(SHIPPED / "base", tmp_path)
    with safe_open(tmp_path / f"{LORA}.safetensors", "pt") as file:
        names = list(file.keys())
    assert len(names) == 2 * 4 * 2 * 70, "SDXL's UNet has 70 transformer blocks of two attentions with four layers each"
