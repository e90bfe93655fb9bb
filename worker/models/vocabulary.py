"""Check that a CLIP tokenizer's files are complete and belong to its text encoder.

A tokenizer without vocabulary maps every word to the end token, and one whose merges are cut short splits words in
other places: both draw pictures without any error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from worker.errors import ModelLoadError
from worker.models.weight_file import check_no_pointer

_WORD_END = "</w>"
# transformers' defaults for a text encoder whose configuration leaves them out.
_CLIP_VOCABULARY, _CLIP_TOKENS = 49408, 77


def read_json(shown: str, file: Path) -> Any:
    """Return a JSON file's content.

    Raises:
        ModelLoadError: the file is missing, a Git LFS pointer, or not JSON.
    """
    if not file.is_file():
        raise ModelLoadError(f"{shown} is missing.")
    check_no_pointer(shown, file)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{shown} cannot be read ({error}).") from None


def check_tokenizer(model_id: str, root: Path, component: str, encoder_config: Mapping[str, Any]) -> None:
    """Check the files of one tokenizer.

    Args:
        component: the tokenizer's folder below `root`.
        encoder_config: the configuration of the text encoder that reads its tokens.

    Raises:
        ModelLoadError: a file is missing or damaged, or does not fit the text encoder; the message names the first.
    """
    folder, shown = root / component, f"{model_id}: {component}"
    encoder = encoder_config.get("text_config") or encoder_config
    settings = read_json(f"{shown}/tokenizer_config.json", folder / "tokenizer_config.json")
    _check_length(shown, settings.get("model_max_length"), encoder.get("max_position_embeddings", _CLIP_TOKENS))
    added = {int(index) for index in settings.get("added_tokens_decoder", {})}
    size = encoder.get("vocab_size", _CLIP_VOCABULARY)
    has_whole = (folder / "tokenizer.json").is_file()
    try:
        if has_whole:
            _check_whole(f"{shown}/tokenizer.json", folder / "tokenizer.json", added, size)
        # transformers reads tokenizer.json where there is one, and other programs the pair.
        if not has_whole or (folder / "vocab.json").is_file():
            _check_pair(shown, folder, added, size, whole=has_whole)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(f"{shown} cannot be read as a CLIP tokenizer ({type(error).__name__}: {error}).") from None


def _check_length(shown: str, length: object, encoder_tokens: int) -> None:
    if length is None:
        raise ModelLoadError(
            f"{shown}/tokenizer_config.json has no model_max_length; for this text encoder it is {encoder_tokens}."
        )
    if not isinstance(length, int) or not 2 < length <= encoder_tokens:
        raise ModelLoadError(
            f"{shown}/tokenizer_config.json has the model_max_length {length}; the text encoder takes"
            f" {encoder_tokens} tokens."
        )


def _check_whole(shown: str, file: Path, added: set[int], size: int) -> None:
    content = read_json(shown, file)
    model = content["model"]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    extra = added | {token["id"] for token in content.get("added_tokens", [])}
    _check_ids(shown, model["vocab"], extra, size)
    _check_merges(shown, model["vocab"], extra, merges)


def _check_pair(shown: str, folder: Path, added: set[int], size: int, *, whole: bool) -> None:
    vocabulary = read_json(f"{shown}/vocab.json", folder / "vocab.json")
    merges_file = folder / "merges.txt"
    if not merges_file.is_file():
        if whole:
            return
        raise ModelLoadError(f"{shown}/merges.txt is missing.")
    check_no_pointer(f"{shown}/merges.txt", merges_file)
    lines = merges_file.read_text(encoding="utf-8").splitlines()
    merges = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
    extra = set(added)
    if (folder / "added_tokens.json").is_file():
        extra |= set(read_json(f"{shown}/added_tokens.json", folder / "added_tokens.json").values())
    _check_ids(f"{shown}/vocab.json", vocabulary, extra, size)
    _check_merges(f"{shown}/merges.txt", vocabulary, extra, merges)


def _check_ids(shown: str, vocabulary: Mapping[str, int], added: set[int], size: int) -> None:
    """Every row of the text encoder's embedding has a token, and every token a row."""
    ids = set(vocabulary.values()) | added
    if ids and max(ids) >= size:
        raise ModelLoadError(f"{shown} has a token {max(ids)}, but the text encoder knows {size} tokens only.")
    if len(ids) < size:
        absent = next(index for index in range(size) if index not in ids)
        raise ModelLoadError(
            f"{shown} is not complete: the text encoder knows {size} tokens, and number {absent} is missing."
        )


def _check_merges(
    shown: str, vocabulary: Mapping[str, int], added: set[int], merges: Iterable[tuple[str, ...]]
) -> None:
    """Every token longer than a character is made by a merge."""
    made = {"".join(merge) for merge in merges}
    for token, index in vocabulary.items():
        is_special = index in added or (token.startswith("<|") and token.endswith("|>"))
        if len(token.removesuffix(_WORD_END)) > 1 and token not in made and not is_special:
            raise ModelLoadError(f"{shown} is not complete: no merge makes the token {token!r}.")
