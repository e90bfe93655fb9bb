"""The peak of the tensors that a network's forward pass holds, traced on the meta device: shapes without numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Counts the bytes of all storages that are created within it and still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@contextmanager
def _flash_attention() -> Iterator[None]:
    """Attention whose scores are never stored, as on a GPU; the meta device would compute them."""

    def attention(query: torch.Tensor, _key: Any, _value: Any, **_rest: Any) -> torch.Tensor:
        return torch.empty_like(query)

    before = torch.nn.functional.scaled_dot_product_attention
    torch.nn.functional.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = before


@torch.inference_mode()
def traced_peak(forward: Callable[[], object]) -> int:
    """Bytes of the tensors that `forward` makes on the meta device, where the most of them are alive."""
    with _flash_attention(), _Peak() as peak:
        forward()
    most: int = peak.peak
    return most


def unet_peak(unet: Any, samples: int, height: int, width: int, dtype: torch.dtype, chunks: int = 1) -> int:
    """The peak of one UNet call on latents of `height` x `width`."""
    config = unet.config
    make: dict[str, Any] = {"device": "meta", "dtype": dtype}
    ids = (config.projection_class_embeddings_input_dim - 1280) // config.addition_time_embed_dim
    added = {"text_embeds": torch.empty(samples, 1280, **make), "time_ids": torch.empty(samples, ids, **make)}
    latents = torch.empty(samples, config.in_channels, height, width, **make)
    prompt = torch.empty(samples, 77 * chunks, config.cross_attention_dim, **make)
    timestep = torch.ones(samples, dtype=torch.int64, device="meta")
    return traced_peak(
        lambda: unet(latents, timestep, encoder_hidden_states=prompt, added_cond_kwargs=added, return_dict=False)
    )


def vae_peak(vae: Any, height: int, width: int, dtype: torch.dtype) -> int:
    """The peak of one decode of latents of `height` x `width`."""
    latents = torch.empty(1, vae.config.latent_channels, height, width, device="meta", dtype=dtype)
    return traced_peak(lambda: vae.decode(latents, return_dict=False))
