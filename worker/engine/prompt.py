"""Encode prompts that are longer than CLIP's limit, in chunks of 75 tokens that are encoded separately.

CLIP reads 77 tokens, of which the first and the last are special. Longer prompts are split as A1111, compel and
sd_embed do it: the embeddings of the chunks are concatenated, the pooled embedding is that of the first chunk, and the
shorter one of the positive and the negative prompt is padded with empty chunks. A prompt of one chunk is encoded by
diffusers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from worker.errors import ErrorCode, RequestRejected

# 600 tokens. Each chunk makes every cross-attention of the UNet slower.
MAX_CHUNKS = 8

_SPECIAL_TOKENS = 2

Encoded = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None]


def chunks_needed(pipe: Any, prompt: str, negative_prompt: str | None) -> int:
    """Return the number of chunks of the longer prompt, at least 1.

    Raises:
        RequestRejected: `invalid_request`, if a prompt needs more than `MAX_CHUNKS`.
    """
    return max(_chunks(pipe, "prompt", prompt), _chunks(pipe, "negative_prompt", negative_prompt or ""))


def encode(pipe: Any, prompt: str, negative_prompt: str | None, *, guided: bool, device: torch.device) -> Encoded:
    """Return the prompt, negative prompt, pooled and negative pooled embeddings.

    The prompt embeddings are (1, 77 × chunks, width), the pooled ones (1, projection). Without guidance, the negative
    ones are None.
    """
    chunks = chunks_needed(pipe, prompt, negative_prompt if guided else None)
    if chunks == 1:
        encoded: Encoded = pipe.encode_prompt(
            prompt, device=device, do_classifier_free_guidance=guided, negative_prompt=negative_prompt
        )
        return encoded
    positive, pooled = _encode_long(pipe, prompt, chunks, device)
    if not guided:
        return positive, None, pooled, None
    if negative_prompt is None and pipe.config.force_zeros_for_empty_prompt:
        return positive, torch.zeros_like(positive), pooled, torch.zeros_like(pooled)
    negative, negative_pooled = _encode_long(pipe, negative_prompt or "", chunks, device)
    return positive, negative, pooled, negative_pooled


def _chunks(pipe: Any, name: str, text: str) -> int:
    found = 1
    for tokenizer, _ in _encoders(pipe):
        tokens = len(_tokens(tokenizer, text))
        chunks = -(-tokens // _chunk_size(tokenizer))
        if chunks > MAX_CHUNKS:
            limit = MAX_CHUNKS * _chunk_size(tokenizer)
            raise RequestRejected(
                ErrorCode.INVALID_REQUEST,
                f"{name} has {tokens} tokens, which make {chunks} chunks; at most {MAX_CHUNKS} chunks ({limit} tokens)"
                " are allowed, including the profile's text",
            )
        found = max(found, chunks)
    return found


def _encode_long(pipe: Any, text: str, chunks: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    by_encoder, pooled = [], None
    for tokenizer, encoder in _encoders(pipe):
        parts = []
        for ids in _chunk_ids(tokenizer, text, chunks):
            # Chunks are encoded one by one, as diffusers encodes a short prompt, so that the bits of a chunk do not
            # depend on the number of chunks.
            output = encoder(torch.tensor([ids], device=encoder.device), output_hidden_states=True)
            parts.append(output.hidden_states[-2])
            if pooled is None and output[0].ndim == 2:
                pooled = output[0]
        by_encoder.append(torch.cat(parts, dim=1))
    assert pooled is not None, "no text encoder has a pooled output"
    return torch.cat(by_encoder, dim=-1).to(dtype=pipe.text_encoder_2.dtype, device=device), pooled


def _chunk_ids(tokenizer: Any, text: str, chunks: int) -> list[list[int]]:
    """Return the token ids of each chunk, as the tokenizer would return them for that part of the text."""
    tokens, size = _tokens(tokenizer, text), _chunk_size(tokenizer)
    rows = []
    for first in range(0, chunks * size, size):
        part = tokens[first : first + size]
        padding = [tokenizer.pad_token_id] * (size - len(part))
        rows.append([tokenizer.bos_token_id, *part, tokenizer.eos_token_id, *padding])
    return rows


def _tokens(tokenizer: Any, text: str) -> Sequence[int]:
    ids: Sequence[int] = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return ids


def _chunk_size(tokenizer: Any) -> int:
    return int(tokenizer.model_max_length) - _SPECIAL_TOKENS


def _encoders(pipe: Any) -> list[tuple[Any, Any]]:
    both = ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2))
    return [(tokenizer, encoder) for tokenizer, encoder in both if tokenizer is not None]
