"""Every kind of LoRA draws what the package that trains it draws, or what PEFT and diffusers draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.engine.lora_files import TEXT, load_into
from tests.engine.lycoris_files import DORAS, KINDS, apply, make
from tests.engine.test_lora_batch import SAMPLES, mixed, plain, unet_inputs
from worker.engine.lora.cache import LoraCache, Loras
from worker.models.load import load_base

TOLERANCE = 2e-5
ALL = [*KINDS, *DORAS]


def encoded(pipeline: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = pipeline.encode_prompt("a cat", do_classifier_free_guidance=False)[0]
    return found


@pytest.mark.parametrize("kind", ALL)
def test_it_draws_what_lycoris_does(
    base: Any, reference: Any, folder: Path, lora_cache: LoraCache, kind: str
) -> None:
    tensors, modules = make(kind, reference)
    save_file(tensors, folder / "lora.safetensors")
    # A DoRA's weights between 0 and 1 are a choice of every program.
    loras: Loras = [("lora", 1.0 if kind in DORAS else -0.7)]
    inputs = unet_inputs(base, samples=2)
    ours = mixed(lora_cache, base, [loras] * 2, inputs)
    lora_cache.acquire(loras)
    with lora_cache.text(loras):
        text = encoded(base)
    apply(modules, loras[0][1])
    for mine, theirs, bare in (
        (ours, plain(reference, inputs), plain(base, inputs)),
        (text, encoded(reference), encoded(base)),
    ):
        assert torch.allclose(mine, theirs, atol=TOLERANCE, rtol=1e-4), (mine - theirs).abs().max()
        assert not torch.allclose(mine, bare, atol=0.01)
