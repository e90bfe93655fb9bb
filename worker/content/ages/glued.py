"""Words of age written together: `fifteenyearsold`, `agedfifteen`, `sheis` of `sheis15`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

from worker.content.ages.language import Language, languages
from worker.content.ages.lexer import Form, Token

_LENGTH_MIN, _LENGTH_MAX = 5, 40
_PIECE_MAX = 16
_NUMBER_MIN = 3
# Shorter words may be two that meet: on e.
_SPLIT_MIN = 6
_SHORT_UNITS = frozenset({"yo", "yr"})


def split_glued(found: Iterable[Token]) -> list[Token]:
    """The tokens with every word that is made of words of age alone, a unit or marker among them, as those words."""
    tokens: list[Token] = []
    for token in found:
        pieces = _pieces(token.text) if token.form is Form.WORD and len(token.text) >= _LENGTH_MIN else ()
        if pieces:
            tokens += [Token(piece, Form.WORD) for piece in pieces]
        else:
            tokens.append(token)
    return tokens


def join_split(found: Sequence[Token]) -> list[Token]:
    """The tokens with number words and `years` whole again where one gap parts them: `fif teen ye ars`."""
    tokens: list[Token] = []
    for token in found:
        last = tokens[-1] if tokens else None
        if last is not None and last.form is token.form is Form.WORD and last.text + token.text in _split_words():
            tokens[-1] = Token(last.text + token.text, Form.WORD, (), last.glued)
        else:
            tokens.append(token)
    return tokens


@cache
def _split_words() -> frozenset[str]:
    numbers = {word for language in languages() for word in language.own_numbers if len(word) >= _SPLIT_MIN}
    return frozenset(numbers | {"year", "years"})


@cache
def _vocabulary() -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """The words that pieces may be, and two sets of which each must have one there: words of age, and numbers."""
    found, needed, numbers = set[str](), set[str](), set[str]()
    for language in languages():
        needed |= _glueable(language)
        numbers |= {word for word in language.own_numbers if len(word) >= _NUMBER_MIN}
        found |= language.persons
    return frozenset(found | needed | numbers), frozenset(needed), frozenset(numbers)


@cache
def _phrases() -> dict[str, tuple[str, ...]]:
    """Phrases of several words, by what they are without the gaps."""
    phrases = (
        phrase
        for language in languages()
        for found in (language.age_units, language.markers, language.is_phrases, language.infant_units)
        for phrase in found.phrases
    )
    return {"".join(phrase): phrase for phrase in phrases if len(phrase) > 1}


def _glueable(language: Language) -> set[str]:
    phrases = (language.age_units, language.markers, language.time_units, language.infant_units)
    words = {word for found in phrases for word in found.words if len(word) >= _NUMBER_MIN}
    return words | (language.age_units.words & _SHORT_UNITS)


@lru_cache(maxsize=4096)
def _pieces(word: str) -> tuple[str, ...]:
    """The fewest words that the word consists of, if they state an age; else none."""
    if len(word) > _LENGTH_MAX:
        return ()
    found, needed, numbers = _vocabulary()
    if word in found:
        return ()
    if word in _phrases():
        return _phrases()[word]
    best: list[tuple[str, ...] | None] = [(), *[None] * len(word)]
    for end in range(2, len(word) + 1):
        for start in range(max(0, end - _PIECE_MAX), end - 1):
            before, piece = best[start], word[start:end]
            if before is not None and piece in found:
                candidate = (*before, piece)
                kept = best[end]
                if kept is None or len(candidate) < len(kept):
                    best[end] = candidate
    pieces = best[-1] or ()
    return () if needed.isdisjoint(pieces) or numbers.isdisjoint(pieces) else pieces
