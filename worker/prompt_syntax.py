"""Prompts with weights in brackets, as A1111 and its successors read them. Pure.

`(word)` weighs 1.1, `[word]` 1 / 1.1, `(word:1.3)` 1.3; brackets may be nested, and one that is never closed counts to
the end. `BREAK` ends a chunk. A backslash makes the next bracket a bracket of the text. What is encoded are exactly the
words of the text without this syntax, so the content rules look at these (`readings`).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

_STEP = 1.1
# Far beyond what still gives a picture. Weights below 0 would turn a negative prompt, which no rule reads, into a
# wish.
MIN_WEIGHT, MAX_WEIGHT = 0.0, 10.0
# Below this weight, words count as absent too.
FAINT = 0.6

_TOKEN = re.compile(
    r"\\(?P<escaped>.?)|(?P<opening>[(\[])|:\s*(?P<weight>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*\)|(?P<closing>[)\]])"
    r"|(?P<text>[^\\()\[\]:]+|:)",
    re.DOTALL,
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_OPENING_OF = {")": "(", "]": "["}
_PARSED = 256


class PromptSyntax(StrEnum):
    """How the signs of a prompt are read."""

    LITERAL = "literal"
    A1111 = "a1111"


@dataclass(frozen=True, slots=True)
class Part:
    """Text between two `BREAK`s without its syntax; `weights` holds (first character, weight), rising, from 0."""

    text: str
    weights: tuple[tuple[int, float], ...] = ((0, 1.0),)

    @property
    def is_weighted(self) -> bool:
        return any(weight != 1.0 for _, weight in self.weights)

    @property
    def clear_text(self) -> str:
        """The text without its faint words."""
        ends = [first for first, _ in self.weights[1:]] + [len(self.text)]
        return "".join(
            " " if weight < FAINT else self.text[first:end]
            for (first, weight), end in zip(self.weights, ends, strict=True)
        )

    def weight_at(self, character: int) -> float:
        """Return the weight of the character at this index."""
        return self.weights[bisect_right(self.weights, character, key=lambda run: run[0]) - 1][1]


def parse(text: str, syntax: PromptSyntax) -> tuple[Part, ...]:
    """Return the parts of a prompt, at least one.

    Raises:
        ValueError: a weight is out of bounds; the message is a sentence without its subject.
    """
    return (Part(text),) if syntax is PromptSyntax.LITERAL else _parse(text)


def plain_text(text: str, syntax: PromptSyntax) -> str:
    """Return the words that are encoded, without syntax. Raises ValueError as `parse`."""
    return " ".join(part.text for part in parse(text, syntax))


def readings(text: str, syntax: PromptSyntax) -> tuple[str, ...]:
    """Return the texts that rules about words look at: all words, and those that are not faint, where some are.

    A word that makes others harmless does not do so at a weight of 0. Raises ValueError as `parse`.
    """
    clear = " ".join(part.clear_text for part in parse(text, syntax))
    return tuple(dict.fromkeys((plain_text(text, syntax), clear)))


# Admission, the choice of a group and the encoding read the same prompts.
@lru_cache(_PARSED)
def _parse(text: str) -> tuple[Part, ...]:
    parts, text_parts, runs, length = [], list[str](), list[tuple[int, float]](), 0
    for piece, weight in _weighted(text):
        for number, words in enumerate(_BREAK.split(piece)):
            if number:
                parts.append(Part("".join(text_parts), _merged(runs)))
                text_parts, runs, length = [], [], 0
            if words:
                text_parts.append(words)
                runs.append((length, weight))
                length += len(words)
    parts.append(Part("".join(text_parts), _merged(runs)))
    return tuple(part for part in parts if part.text.strip()) or (Part(""),)


def _merged(runs: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    merged = [run for at, run in enumerate(runs) if not at or run[1] != runs[at - 1][1]]
    return tuple(merged) or Part("").weights


def _weighted(text: str) -> Iterator[tuple[str, float]]:
    """Yield the pieces of text with their weights; linear in the length, however deep the brackets are nested."""
    found = list(_TOKEN.finditer(text))
    factors, closing = _matched(found)
    products = {"(": [1.0], "[": [1.0]}
    for at, token in enumerate(found):
        if at in factors:
            stack = products[token["opening"]]
            stack.append(stack[-1] * factors[at])
        elif at in closing:
            products[closing[at]].pop()
        else:
            weight = products["("][-1] * products["["][-1]
            if not MIN_WEIGHT <= weight <= MAX_WEIGHT:
                raise ValueError(
                    f"has text with the weight {weight:.3g}; weights must be from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}"
                )
            # A backslash by itself is dropped, and the sign after it is only a sign.
            yield token[0] if token["escaped"] is None else token["escaped"], weight


def _matched(found: list[re.Match[str]]) -> tuple[dict[int, float], dict[int, str]]:
    """Return the factor of every opening bracket by its index, and the kind of bracket that each closing one closes."""
    factors, closing = dict[int, float](), dict[int, str]()
    open_: dict[str, list[int]] = {"(": [], "[": []}
    for at, token in enumerate(found):
        if token["opening"]:
            open_[token["opening"]].append(at)
            factors[at] = _STEP if token["opening"] == "(" else 1 / _STEP
            continue
        kind = "(" if token["weight"] else _OPENING_OF.get(token["closing"] or "")
        if kind is None or not open_[kind]:
            continue
        opened = open_[kind].pop()
        closing[at] = kind
        if token["weight"]:
            factors[opened] = float(token["weight"])
    return factors, closing
