"""Encode prompts that are longer than CLIP's limit, in chunks of 75 tokens that are encoded separately.

CLIP reads 77 tokens, of which the first and the last are special. Longer prompts are split as A1111, compel and
sd_embed do it: the embeddings of the chunks are concatenated, the pooled embedding is that of the first chunk, and the
shorter one of the positive and the negative prompt is padded with empty chunks. A prompt of one chunk without weights
is encoded by diffusers.

Weights (`prompt_syntax.py`) multiply the hidden states of their tokens and leave the pooled embedding alone, which is
A1111's "No norm", the emphasis that it recommends for SDXL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from worker.engine.embeddings import CLIP_G, CLIP_L, Embeddings, placed
from worker.errors import ErrorCode, RequestRejected
from worker.prompt_syntax import Part, PromptSyntax, parse

# 600 tokens. Each chunk makes every cross-attention of the UNet slower.
MAX_CHUNKS = 8

_SPECIAL_TOKENS = 2

Encoded = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None]
# The embeddings of one prompt and its pooled ones.
EncodedText = tuple[torch.Tensor, torch.Tensor]


# Embeddings take the place of tokens; any id serves that is not the highest, by which CLIP finds the end.
_PLACEHOLDER = 0
_NO_EMBEDDINGS = Embeddings()


class _Token(NamedTuple):
    """A token of a prompt; `weight` multiplies its hidden state, `vector`, (width,), replaces its embedding."""

    id: int
    weight: float = 1.0
    vector: torch.Tensor | None = None


def chunks_needed(
    pipe: Any,
    prompt: str,
    negative_prompt: str | None,
    syntax: PromptSyntax = PromptSyntax.LITERAL,
    embeddings: Embeddings = _NO_EMBEDDINGS,
) -> int:
    """Return the number of chunks of the longer prompt, at least 1.

    Raises:
        RequestRejected: `invalid_request`, if a prompt needs more than `MAX_CHUNKS`, or names an embedding that cannot
            be used.
    """
    return max(
        _count(pipe, "prompt", parse(prompt, syntax), embeddings),
        _count(pipe, "negative_prompt", parse(negative_prompt or "", syntax), embeddings),
    )


def encode(
    pipe: Any,
    prompt: str,
    negative_prompt: str | None,
    *,
    guided: bool,
    device: torch.device,
    syntax: PromptSyntax = PromptSyntax.LITERAL,
    embeddings: Embeddings = _NO_EMBEDDINGS,
) -> Encoded:
    """Return the prompt, negative prompt, pooled and negative pooled embeddings.

    The prompt embeddings are (1, 77 × chunks, width), the pooled ones (1, projection). Without guidance, the negative
    ones are None.
    """
    negative_prompt = negative_prompt if guided else None
    chunks = chunks_needed(pipe, prompt, negative_prompt, syntax, embeddings)
    positive = encode_text(pipe, prompt, chunks, device, syntax, embeddings)
    text = negative_text(pipe, negative_prompt)
    negative = None if text is None else encode_text(pipe, text, chunks, device, syntax, embeddings)
    return joined(positive, negative, guided=guided)


def encode_text(
    pipe: Any,
    text: str,
    chunks: int,
    device: torch.device,
    syntax: PromptSyntax = PromptSyntax.LITERAL,
    embeddings: Embeddings = _NO_EMBEDDINGS,
) -> EncodedText:
    """Encode one prompt, positive or negative, by itself: its bits do not depend on the other one.

    Returns:
        The embeddings, (1, 77 × chunks, width), and the pooled ones, (1, projection).
    """
    parts = parse(text, syntax)
    if chunks == 1 and all(_is_plain(part, embeddings) for part in parts):
        hidden, _, pooled, _ = pipe.encode_prompt(parts[0].text, device=device, do_classifier_free_guidance=False)
        return hidden, pooled
    return _encode_chunks(pipe, parts, chunks, device, embeddings)


def negative_text(pipe: Any, negative_prompt: str | None) -> str | None:
    """Return the text that stands for a negative prompt; None where the model wants zeros for an absent one."""
    if negative_prompt is None and pipe.config.force_zeros_for_empty_prompt:
        return None
    return negative_prompt or ""


def joined(positive: EncodedText, negative: EncodedText | None, *, guided: bool) -> Encoded:
    """Put two encoded prompts together in diffusers' order; a guided one without a negative has zeros there."""
    prompt, pooled = positive
    if not guided:
        return prompt, None, pooled, None
    if negative is None:
        return prompt, torch.zeros_like(prompt), pooled, torch.zeros_like(pooled)
    return prompt, negative[0], pooled, negative[1]


def _is_plain(part: Part, embeddings: Embeddings) -> bool:
    return not part.is_weighted and not any(embeddings.mentions(part.text))


def _count(pipe: Any, name: str, parts: Sequence[Part], embeddings: Embeddings) -> int:
    found = 1
    for key, tokenizer, _ in _encoders(pipe):
        chunks = _chunks(key, tokenizer, parts, embeddings)
        if len(chunks) > MAX_CHUNKS:
            tokens, limit = sum(len(chunk) for chunk in chunks), MAX_CHUNKS * _chunk_size(tokenizer)
            raise RequestRejected(
                ErrorCode.INVALID_REQUEST,
                f"{name} has {tokens} tokens, which make {len(chunks)} chunks; at most {MAX_CHUNKS} chunks ({limit}"
                " tokens) are allowed, including the profile's text",
            )
        found = max(found, len(chunks))
    return found


def _encode_chunks(
    pipe: Any, parts: Sequence[Part], count: int, device: torch.device, embeddings: Embeddings
) -> tuple[torch.Tensor, torch.Tensor]:
    by_encoder, pooled = [], None
    for key, tokenizer, encoder in _encoders(pipe):
        chunks = _chunks(key, tokenizer, parts, embeddings)
        hidden = []
        for chunk in [*chunks, *[[]] * (count - len(chunks))]:
            # Chunks are encoded one by one, as diffusers encodes a short prompt, so that the bits of a chunk do not
            # depend on the number of chunks.
            ids = torch.tensor([_padded(tokenizer, chunk)], device=encoder.device)
            # Behind the start token.
            vectors = [(at, token.vector) for at, token in enumerate(chunk, 1) if token.vector is not None]
            with placed(encoder, vectors):
                output = encoder(ids, output_hidden_states=True)
            hidden.append(_weighted(output.hidden_states[-2], chunk))
            if pooled is None and output[0].ndim == 2:
                pooled = output[0]
        by_encoder.append(torch.cat(hidden, dim=1))
    assert pooled is not None, "no text encoder has a pooled output"
    return torch.cat(by_encoder, dim=-1).to(dtype=pipe.text_encoder_2.dtype, device=device), pooled


def _weighted(hidden: torch.Tensor, chunk: Sequence[_Token]) -> torch.Tensor:
    """Multiply the states of a chunk's tokens, (1, 77, width), by their weights; special tokens weigh 1."""
    if all(token.weight == 1.0 for token in chunk):
        return hidden
    weights = torch.ones(hidden.shape[1], dtype=hidden.dtype)
    weights[1 : 1 + len(chunk)] = torch.tensor([token.weight for token in chunk], dtype=hidden.dtype)
    return hidden * weights.to(hidden.device)[None, :, None]


def _padded(tokenizer: Any, chunk: Sequence[_Token]) -> list[int]:
    """Return the token ids of a chunk, as the tokenizer would return them for that part of the text."""
    padding = [tokenizer.pad_token_id] * (_chunk_size(tokenizer) - len(chunk))
    return [tokenizer.bos_token_id, *(token.id for token in chunk), tokenizer.eos_token_id, *padding]


def _chunks(key: str, tokenizer: Any, parts: Sequence[Part], embeddings: Embeddings) -> list[list[_Token]]:
    """Return the tokens of each chunk, without special ones; every part begins a chunk, and no embedding is cut."""
    size, chunks = _chunk_size(tokenizer), []
    for part in parts:
        chunk: list[_Token] = []
        for group in _groups(key, tokenizer, part, embeddings):
            if len(chunk) + len(group) > size:
                chunks.append(chunk)
                chunk = []
            chunk += group
        chunks.append(chunk)
    return chunks


def _groups(key: str, tokenizer: Any, part: Part, embeddings: Embeddings) -> Iterator[list[_Token]]:
    """Yield what a chunk takes as a whole: a token, or all vectors of an embedding."""
    done = 0
    for mention in embeddings.mentions(part.text):
        yield from ([token] for token in _tokens(tokenizer, part, done, mention.first))
        weight = part.weight_at(mention.first)
        yield [_Token(_PLACEHOLDER, weight, vector) for vector in mention.embedding.vectors[key]]
        done = mention.last
    yield from ([token] for token in _tokens(tokenizer, part, done, len(part.text)))


def _tokens(tokenizer: Any, part: Part, first: int, last: int) -> list[_Token]:
    """Return the tokens of some characters; one that spans a bracket has the weight of its first character."""
    weighted = part.is_weighted
    found = tokenizer(
        part.text[first:last],
        add_special_tokens=False,
        truncation=False,
        verbose=False,
        return_offsets_mapping=weighted,
    )
    if not weighted:
        return [_Token(token) for token in found.input_ids]
    starts = [first + start for start, _ in found.offset_mapping]
    return [_Token(token, part.weight_at(at)) for token, at in zip(found.input_ids, starts, strict=True)]


def _chunk_size(tokenizer: Any) -> int:
    return int(tokenizer.model_max_length) - _SPECIAL_TOKENS


def _encoders(pipe: Any) -> list[tuple[str, Any, Any]]:
    both = ((CLIP_L, pipe.tokenizer, pipe.text_encoder), (CLIP_G, pipe.tokenizer_2, pipe.text_encoder_2))
    return [(key, tokenizer, encoder) for key, tokenizer, encoder in both if tokenizer is not None]
