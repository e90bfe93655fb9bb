"""The parts of a text that stand near a number: no age is stated anywhere else. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

from worker.content.ages.language import languages
from worker.content.ages.lexer import Form, Token
from worker.content.ages.roman import ROMAN

# Farther than any rule of the grammar looks from a number.
_REACH = 24


def near_numbers(found: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """Runs of tokens around every number, in digits or words; runs that would overlap are one."""
    first = end = 0
    for at, token in enumerate(found):
        if not (token.is_number or (token.form is Form.WORD and _is_number_word(token.text))):
            continue
        if at - _REACH > end or not end:
            if end:
                yield found[first:end]
            first = max(0, at - _REACH)
        end = at + _REACH
    if end:
        yield found[first:end]


@cache
def _number_words() -> frozenset[str]:
    return frozenset(ROMAN) | {word for language in languages() for word in (*language.numbers, *language.ordinals)}


@lru_cache(maxsize=8192)
def _is_number_word(word: str) -> bool:
    return word in _number_words() or any(
        language.compounds is not None and language.compounds.fullmatch(word) for language in languages()
    )
