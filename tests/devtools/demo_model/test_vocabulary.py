"""The demo model's tokenizers."""

from __future__ import annotations

import random

from devtools.demo_model.scenes import SHAPES, UNTAUGHT_SHAPES, caption, random_scene
from devtools.demo_model.vocabulary import tokenizers
from devtools.models.small import BOS, EOS, MAX_TOKENS


def test_every_word_of_a_caption_is_one_token() -> None:
    tokenizer, _ = tokenizers()
    rng = random.Random(11)
    for _ in range(200):
        said = caption(rng, random_scene(rng, SHAPES + UNTAUGHT_SHAPES))
        assert tokenizer.tokenize(said) == [f"{word}</w>" for word in said.replace(",", " ,").split()]


def test_words_that_are_not_in_it_are_spelt() -> None:
    tokenizer, _ = tokenizers()
    pieces = tokenizer.tokenize("a zebra, 猫")
    assert "".join(pieces[1:]).startswith("zebra</w>,</w>")
    assert len(pieces) > 5
    assert EOS not in pieces


def test_both_pad_as_sdxls_do() -> None:
    first, second = tokenizers()
    assert (first.pad_token, second.pad_token) == (EOS, "!")
    assert first.get_vocab() == second.get_vocab()
    ids = first("a red star", padding="max_length", max_length=MAX_TOKENS).input_ids
    assert (ids[0], ids[-1], len(ids)) == (first.convert_tokens_to_ids(BOS), first.pad_token_id, MAX_TOKENS)
    assert max(first.get_vocab().values()) == first.eos_token_id, "CLIP finds the end of a prompt by the largest id"
