"""The demo model's tokenizers and text encoders: CLIP's classes, with a token for each word of the captions."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from devtools.demo_model.scenes import SHAPES, UNTAUGHT_SHAPES, caption, chatter, random_scene
from devtools.models import small

# The widths must differ, because diffusers' single-file loader distinguishes CLIP-L and CLIP-G by them.
CLIP_L_WIDTH = 64
CLIP_G_WIDTH = 96
# CLIP initialises embeddings with a standard deviation of 0.02, which is too little for a small model that is trained
# only briefly.
_EMBEDDING_GAIN = 10.0
_CAPTIONS_READ = 2_000


def tokenizers() -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Return SDXL's two tokenizers: they have the same vocabulary, but the second one pads with "!"."""
    vocabulary, merges = _byte_pairs(sorted(set(_words())))
    return small.tokenizer_pair(vocabulary, merges)


def _words() -> Iterator[str]:
    rng = random.Random(0)
    for _ in range(_CAPTIONS_READ):
        # The last word is a spare one for LoRAs.
        said = f"{caption(rng, random_scene(rng, SHAPES + UNTAUGHT_SHAPES))}, {chatter(rng)}, outline"
        yield from said.replace(",", " ").split()


def _byte_pairs(words: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return a vocabulary and its merges: all bytes, inside a word and at its end, merged until each word is a token.

    Any other word is split into smaller tokens.
    """
    tokens = small.alphabet()
    merges: list[tuple[str, str]] = []
    pieces = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    while pairs := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        tokens.append("".join(best))
        pieces = [_merged(word, best) for word in pieces]
    return small.numbered(list(dict.fromkeys(tokens))), merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Build untrained text encoders, drawn from torch's global generator.

    SDXL uses the output of the layer before the last, so each has at least two layers.
    """
    first = CLIPTextModel(_config(tokenizer, CLIP_L_WIDTH, layers=2, activation="quick_gelu"))
    second = CLIPTextModelWithProjection(_config(tokenizer, CLIP_G_WIDTH, layers=3, activation="gelu"))
    with torch.no_grad():
        for encoder in (first, second):
            encoder.get_input_embeddings().weight.mul_(_EMBEDDING_GAIN)
    return first, second


def _config(tokenizer: CLIPTokenizer, width: int, *, layers: int, activation: str) -> CLIPTextConfig:
    return small.text_config(
        tokenizer.get_vocab(),
        width,
        pooled_width=CLIP_G_WIDTH,
        layers=layers,
        heads=width // 32,
        activation=activation,
    )
