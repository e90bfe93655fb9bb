"""Fused projections: while a step is compiled, attention computes query, key and value in one matrix product.

The weights of the three projections lie one after another in one tensor, and each projection's own weight becomes a
view of its part. So there is no second copy, and a weight that is written in place is the fused one's too. Eager steps
go on using the projections one by one, and keep their bits.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.nn import functional

_FUSED = "joined_projections"


class FusedWhenCompiled:
    """diffusers' own processor, but for a step that is being compiled."""

    def __init__(self) -> None:
        self._plain: Any = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return the attention's output, (samples, tokens, channels)."""
        if not torch.compiler.is_compiling() or attention_mask is not None:
            plain: torch.Tensor = self._plain(
                attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs
            )
            return plain
        weight = getattr(attn, _FUSED)
        if encoder_hidden_states is None:
            query, key, value = functional.linear(hidden_states, weight).chunk(3, dim=-1)
        else:
            query = attn.to_q(hidden_states)
            key, value = functional.linear(encoder_hidden_states, weight).chunk(2, dim=-1)
        heads = [torch.unflatten(part, -1, (attn.heads, -1)).transpose(1, 2) for part in (query, key, value)]
        mixed = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        output: torch.Tensor = attn.to_out[1](attn.to_out[0](mixed)) / attn.rescale_output_factor
        return output


def fuse_projections(unet: Any) -> int:
    """Fuse the projections of every attention of a UNet that allows it, once; return how many are fused.

    The UNet must stay where it is: moving it to another device would take the views apart.
    """
    found = [getattr(block, name) for block in unet.modules() for name in ("attn1", "attn2") if hasattr(block, name)]
    # Tensors that are made in inference mode could never be written outside of it.
    with torch.inference_mode(False), torch.no_grad():
        fused = [attn for attn in found if hasattr(attn, _FUSED) or _fuse(attn)]
    for attn in fused:
        attn.set_processor(FusedWhenCompiled())
    return len(fused)


def _fuse(attn: Any) -> bool:
    parts = [attn.to_k, attn.to_v] if attn.is_cross_attention else [attn.to_q, attn.to_k, attn.to_v]
    plain = type(attn.processor) is AttnProcessor2_0 and not attn.residual_connection
    unusual = (attn.norm_q, attn.norm_k, attn.norm_cross, attn.group_norm, attn.spatial_norm)
    if not plain or any(unusual) or any(part.bias is not None for part in parts):
        return False
    together = torch.cat([part.weight.data for part in parts])
    for part, view in zip(parts, torch.split(together, [len(part.weight) for part in parts]), strict=True):
        part.weight.data = view
    attn.register_buffer(_FUSED, together, persistent=False)
    return True
