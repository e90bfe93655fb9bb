"""Fused projections share their memory with the projections' own weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from worker.engine.compiled.qkv import FusedWhenCompiled, fuse_projections
from worker.models.load import load_base


@pytest.fixture
def unet(toy: Path) -> Any:
    return load_base(str(toy / "base"), dtype=torch.float32, device="cpu").unet


def attentions(unet: Any) -> list[Any]:
    return [attn for block in unet.modules() if hasattr(block, "attn1") for attn in (block.attn1, block.attn2)]


def predicted(unet: Any) -> torch.Tensor:
    config, generator = unet.config, torch.Generator().manual_seed(0)
    text = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    with torch.inference_mode():
        result: torch.Tensor = unet(
            torch.randn(2, 4, 8, 8, generator=generator),
            torch.tensor([5.0, 5.0]),
            encoder_hidden_states=torch.randn(2, 77, config.cross_attention_dim, generator=generator),
            added_cond_kwargs={
                "text_embeds": torch.randn(2, text, generator=generator),
                "time_ids": torch.ones(2, 6),
            },
            return_dict=False,
        )[0]
    return result


def test_nothing_changes_for_eager_steps(unet: Any) -> None:
    before, weights = predicted(unet), {name: value.clone() for name, value in unet.state_dict().items()}
    assert fuse_projections(unet) == len(attentions(unet)) > 0
    assert torch.equal(predicted(unet), before)
    after = unet.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weights[name]) for name in weights)


def test_a_weight_that_is_written_in_place_is_the_fused_ones_too(unet: Any) -> None:
    fuse_projections(unet)
    with torch.no_grad():
        for attn in attentions(unet):
            for part in (attn.to_k, attn.to_v):
                part.weight.copy_(torch.randn_like(part.weight))
    for attn in attentions(unet):
        parts = [attn.to_k, attn.to_v] if attn.is_cross_attention else [attn.to_q, attn.to_k, attn.to_v]
        assert torch.equal(attn.joined_projections, torch.cat([part.weight for part in parts]))


def test_fusing_twice_is_fusing_once(unet: Any) -> None:
    fuse_projections(unet)
    before = [attn.joined_projections for attn in attentions(unet)]
    assert fuse_projections(unet) == len(before)
    assert all(attn.joined_projections is one for attn, one in zip(attentions(unet), before, strict=True))


def test_an_attention_of_another_kind_is_left_alone(unet: Any) -> None:
    first, *others = attentions(unet)
    first.to_k.bias = torch.nn.Parameter(torch.zeros(len(first.to_k.weight)))
    assert fuse_projections(unet) == len(others)
    assert not isinstance(first.processor, FusedWhenCompiled)
