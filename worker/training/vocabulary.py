"""The demo model's tokenizers and text encoders: CLIP's classes, with the words of the captions as whole tokens."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from worker.training.scenes import SHAPES, UNTAUGHT_SHAPES, caption, chatter, random_scene

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77
# They must differ in width: diffusers' single-file reader tells CLIP-L and CLIP-G apart by it.
CLIP_L_WIDTH = 64
CLIP_G_WIDTH = 96
# CLIP starts embeddings at a standard deviation of 0.02, which a small model trained briefly hardly hears.
_EMBEDDING_GAIN = 10.0
_CAPTIONS_READ = 2_000


def tokenizers() -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """SDXL's pair: the same vocabulary, the second padded with "!"."""
    vocabulary, merges = _byte_pairs(sorted(set(_words())))
    first, second = (
        CLIPTokenizer(
            vocab=dict(vocabulary),
            merges=list(merges),
            unk_token=EOS,
            bos_token=BOS,
            eos_token=EOS,
            pad_token=pad,
            model_max_length=MAX_TOKENS,
        )
        for pad in (EOS, "!")
    )
    return first, second


def _words() -> Iterator[str]:
    rng = random.Random(0)
    for _ in range(_CAPTIONS_READ):
        # The last is a spare word for LoRAs.
        said = f"{caption(rng, random_scene(rng, SHAPES + UNTAUGHT_SHAPES))}, {chatter(rng)}, outline"
        yield from said.replace(",", " ").split()


def _byte_pairs(words: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Every byte, inside a word and at its end, then byte-pair merges until each word is one token.

    A word that is not among them is still read, in smaller pieces.
    """
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    merges: list[tuple[str, str]] = []
    pieces = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    while pairs := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        tokens.append("".join(best))
        pieces = [_merged(word, best) for word in pieces]
    return {token: i for i, token in enumerate([*dict.fromkeys(tokens), BOS, EOS])}, merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Untrained; drawn from torch's global generator. SDXL reads the layer before the last, so two or more."""
    first = CLIPTextModel(_config(tokenizer, CLIP_L_WIDTH, layers=2, activation="quick_gelu"))
    second = CLIPTextModelWithProjection(_config(tokenizer, CLIP_G_WIDTH, layers=3, activation="gelu"))
    with torch.no_grad():
        for encoder in (first, second):
            encoder.get_input_embeddings().weight.mul_(_EMBEDDING_GAIN)
    return first, second


def _config(tokenizer: CLIPTokenizer, width: int, *, layers: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=CLIP_G_WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        hidden_act=activation,
        max_position_embeddings=MAX_TOKENS,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
