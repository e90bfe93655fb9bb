"""What decides bits besides model, card and precision: chosen from facts, told, and nothing on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from worker.engine.decode import decode
from worker.models.cuda import kernel_versions, pin_kernels
from worker.models.load import load_base
from worker.models.numerics import Numerics, choices_for, choose_numerics

KINDS = ("cudnn", "flash", "mem_efficient", "math")
GEFORCE, DATACENTRE = "NVIDIA GeForce RTX 4090", "NVIDIA H100 80GB HBM3"


@dataclass(frozen=True, slots=True)
class Chosen:
    compile: str = "auto"
    fp16_accumulation: str = "auto"


@pytest.mark.parametrize(
    ("chosen", "dtype", "card", "native", "told"),
    [
        (Chosen(), torch.bfloat16, GEFORCE, True, {"memory_format": "channels_last"}),
        (Chosen("off"), torch.bfloat16, GEFORCE, True, {}),
        (Chosen("off"), torch.float16, GEFORCE, True, {"accumulation": "float16", "vae": "bfloat16"}),
        (Chosen("off"), torch.float16, DATACENTRE, True, {"vae": "bfloat16"}),
        (Chosen("off", "on"), torch.float16, DATACENTRE, True, {"accumulation": "float16", "vae": "bfloat16"}),
        (Chosen("off", "off"), torch.float16, GEFORCE, True, {"vae": "bfloat16"}),
        (Chosen("off", "on"), torch.bfloat16, GEFORCE, True, {}),
        # Turing: bfloat16 is emulated, so the VAE is decoded in float32 as before.
        (Chosen("off", "off"), torch.float16, "NVIDIA GeForce RTX 2080 Ti", False, {}),
    ],
)
def test_choices_follow_from_settings_and_card(
    chosen: Chosen, dtype: torch.dtype, card: str, native: bool, told: dict[str, str]
) -> None:
    assert choices_for(chosen, dtype, card=card, native_bfloat16=native) == told


@pytest.mark.parametrize("compile", ["auto", "on", "off"])
def test_a_cpu_has_no_choices(compile: str) -> None:
    assert choose_numerics(Chosen(compile, "on"), torch.device("cpu"), torch.float16) == Numerics()


def test_a_vae_that_overflows_in_float16_is_decoded_in_bfloat16_where_that_was_chosen(toy: Path) -> None:
    pipeline = load_base(str(toy / "base"), dtype=torch.float16, device="cpu")
    pipeline.vae.register_to_config(force_upcast=True)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    with torch.inference_mode():
        exact = decode(pipeline.vae, latents)
        assert pipeline.vae.dtype == torch.float16
        Numerics({"vae": "bfloat16"}).apply_to_vae(pipeline, None)
        assert pipeline.vae.dtype == torch.bfloat16
        near = decode(pipeline.vae, latents)
        assert pipeline.vae.dtype == torch.bfloat16, "nothing is converted for a picture"
    assert abs(exact.astype(int) - near).max() <= 8


def test_a_vae_made_for_float16_stays_in_float16(toy: Path) -> None:
    pipeline = load_base(str(toy / "base"), dtype=torch.float16, device="cpu")
    pipeline.vae.register_to_config(force_upcast=False)
    Numerics({"vae": "bfloat16"}).apply_to_vae(pipeline)
    assert pipeline.vae.dtype == torch.float16


def test_no_kernel_is_chosen_by_a_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    cuda: Any = torch.backends.cuda
    before = [getattr(cuda, f"{name}_sdp_enabled")() for name in KINDS]
    try:
        pin_kernels()
        assert torch.backends.cudnn.benchmark is False
        assert not cuda.cudnn_sdp_enabled()
        assert cuda.flash_sdp_enabled()
    finally:
        for name, enabled in zip(KINDS, before, strict=True):
            getattr(cuda, f"enable_{name}_sdp")(enabled)


def test_versions_of_what_computes_are_known_where_they_are_installed() -> None:
    versions = kernel_versions()
    assert "" not in versions.values()
    assert versions.keys() <= {"cudnn", "cublas", "triton", "driver"}
    if torch.version.cuda is not None:
        assert versions.keys() >= {"cublas", "triton"}
