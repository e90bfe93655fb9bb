"""The figures of the memory plan against networks that are built, without numbers, from SDXL's own configurations."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests.memory_plan.traced import unet_peak, vae_peak
from worker.engine.vae_tiles import set_tiles, tiles_of
from worker.memory_plan.weights import SDXL_BASE, SDXL_REFINER, ModelWeights
from worker.memory_plan.working import unet_bytes, vae_bytes
from worker.models.single_file import SHIPPED

pytestmark = pytest.mark.slow

HALF = torch.float16
NETWORKS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
ENCODERS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


@cache
def network(role: str, component: str) -> Any:
    config = json.loads((SHIPPED / role / component / "config.json").read_text())
    with torch.device("meta"):
        if component in NETWORKS:
            return NETWORKS[component].from_config(config).eval().to(HALF)
        return ENCODERS[component](CLIPTextConfig(**config))


@pytest.mark.parametrize(("role", "assumed"), [("base", SDXL_BASE), ("refiner", SDXL_REFINER)])
def test_the_numbers_of_sdxl_itself(role: str, assumed: ModelWeights) -> None:
    for component in assumed.networks:
        counted = sum(tensor.numel() for tensor in network(role, component).parameters())
        assert assumed.count(component) == counted, component


@pytest.mark.parametrize(
    ("role", "channels", "samples", "height", "width"), [("base", 320, 2, 128, 128), ("refiner", 384, 3, 24, 40)]
)
def test_a_unet_call_needs_what_is_planned(role: str, channels: int, samples: int, height: int, width: int) -> None:
    peak = unet_peak(network(role, "unet"), samples, height, width, HALF)
    assert unet_bytes(channels, samples, height * width, "float16") == pytest.approx(peak, rel=0.02)


@pytest.mark.parametrize(("tile_px", "height", "width"), [(None, 128, 128), (512, 128, 96), (256, 64, 48)])
def test_a_decode_needs_what_is_planned(tile_px: int | None, height: int, width: int) -> None:
    vae = network("base", "vae")
    set_tiles(vae, tile_px)
    assert tiles_of(vae) == tile_px
    peak = vae_peak(vae, height, width, HALF)
    planned = vae_bytes(SDXL_BASE.vae_channels, height * width, "float16", tile_px)
    assert peak <= planned * 1.001
    assert planned <= peak * 1.25
