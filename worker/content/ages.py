"""Ages that a folded text states, in the languages of `ages.toml`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from worker.content.east_asian_ages import stated_years
from worker.content.fold import fold
from worker.content.numbers import SMALL, TABLE, in_digits
from worker.content.phrases import tokens

ADULT_YEARS = 18

_LISTS: dict[str, list[str]] = TABLE["phrases"]
_COMPOUNDED = ("jährig*", "jaehrig*", "летн*")


def _any(phrases: Iterable[str]) -> str:
    """An expression for phrases, folded; one that ends in `*` may go on."""
    parts = []
    for phrase in phrases:
        words = " ".join(tokens(fold(phrase.removesuffix("*"))))
        parts.append(re.escape(words) + (r"[^\W\d_]*" if phrase.endswith("*") else ""))
    return "(?:" + "|".join(sorted(parts, key=len, reverse=True)) + ")"


# On tokens with single spaces between them.
_START, _END = r"(?<!\S)", r"(?!\S)"
_AGE = rf"{_START}(?P<age>\d{{1,2}}){_END}"
_AGE_OR_RANGE = rf"{_AGE}(?: {_any(_LISTS['to'])} \d{{1,2}})?"
_MEASURES = rf"(?! {_any(_LISTS['measures'])}{_END})"
_AGES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_AGE_OR_RANGE} {_any(_LISTS['age_units'])}{_END}",
        rf"{_START}{_any(_LISTS['age_before'])} {_AGE}",
        # Not 1: they are as one, she looks like one of them.
        rf"{_START}{_any(_LISTS['is'])} (?P<age>[2-9]|\d\d){_END}{_MEASURES}(?! \d)",
        rf"{_AGE} (?:st|nd|rd|th) (?:birthday|bday){_END}",
    )
)
_TIME = re.compile(
    rf"(?P<before>(?:\S+ )?){_AGE_OR_RANGE} {_any(_LISTS['time_units'])}{_END}(?! {_any(_LISTS['time_after'])}{_END})"
)
_TIME_BEFORE = frozenset(map(fold, _LISTS["time_before"]))
_NOT_EIGHTEEN = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_START}{_any(_LISTS['under'])} (?:the age of |age |ages )?1[3-8]{_END}{_MEASURES}",
        rf"{_START}sweet 16{_END}",
        rf"{_START}(?:[1-9]|1[0-2]) (?:st|nd|rd|th) (?:grade|grader|graders|klasse|klässlerin){_END}",
        rf"{_START}\d{{1,2}} {_any(_LISTS['infant_units'])}{_END}",
        # Fünfzehnjährige, пятнадцатилетняя.
        rf"{_START}{_any(word for word, value in SMALL.items() if value < ADULT_YEARS)}{_any(_COMPOUNDED)}{_END}",
    )
)
_UNITS = re.compile(
    _any([unit.split()[0] for unit in (*_LISTS["age_units"], *_LISTS["time_units"], *_LISTS["infant_units"])])
)


# `15y` and `16f`, which say an age only when written as one: `15 y 20` is Spanish.
_SHORTHAND = re.compile(r"(?<![\w.,/])(?:[0-9]y|1[0-7][yf])(?![\w/])")


def states_minor_age(folded: str) -> bool:
    """Whether an age under 18 is stated anywhere in the text."""
    text = " ".join(in_digits(tokens(folded), lambda token: _UNITS.fullmatch(token) is not None))
    return (
        any(int(found["age"]) < ADULT_YEARS for pattern in _AGES for found in pattern.finditer(text))
        or any(pattern.search(text) for pattern in _NOT_EIGHTEEN)
        or _SHORTHAND.search(folded) is not None
        or any(
            int(found["age"]) < ADULT_YEARS and found["before"].strip() not in _TIME_BEFORE
            for found in _TIME.finditer(text)
        )
        or (not folded.isascii() and any(years < ADULT_YEARS for years in stated_years(folded)))
    )
