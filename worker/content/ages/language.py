"""The table of one language, ready to be matched against tokens. Pure, but for reading the tables once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from worker.content.ages.lexer import Form, Token, lex
from worker.content.ages.numbers import number_words
from worker.content.fold import fold

ADULT_YEARS = 18
# Lists that every language reads of all: a prompt mixes languages, and años and anos are one word when folded.
_SHARED_LISTS = (
    "and",
    "time_before",
    "time_after",
    "things",
    "thing_links",
    "maturing",
    "eras",
    "functions",
    "births",
    "labels",
    "thing_words",
)
LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "ru")


class PhraseSet:
    """Phrases of a few words, found forwards and backwards; signs may stand between their words.

    A phrase of one word that ends in `*` may go on as a longer word.
    """

    def __init__(self, phrases: Iterable[str]) -> None:
        found = tuple(phrases)
        self.stems = tuple(fold(phrase[:-1]) for phrase in found if phrase.endswith("*"))
        words = {tuple(t.text for t in lex(fold(p)) if t.form is Form.WORD) for p in found if not p.endswith("*")}
        ordered = sorted(words, key=lambda phrase: (-len(phrase), phrase))
        self._by_first: dict[str, list[tuple[str, ...]]] = {}
        self._by_last: dict[str, list[tuple[str, ...]]] = {}
        for phrase in ordered:
            self._by_first.setdefault(phrase[0], []).append(phrase)
            self._by_last.setdefault(phrase[-1], []).append(phrase)
        self.phrases = tuple(ordered)
        self.words = frozenset(word for phrase in words for word in phrase)

    def end(self, found: Sequence[Token], at: int) -> int:
        """Where the longest phrase that begins at `at` ends; `at` where there is none."""
        if at >= len(found):
            return at
        text = found[at].text
        for phrase in self._by_first.get(text, ()):
            end = _forwards(found, at, phrase)
            if end > at:
                return end
        return at + 1 if self.stems and text.startswith(self.stems) else at

    def start(self, found: Sequence[Token], end: int) -> int:
        """Where the longest phrase that ends before `end` begins; `end` where there is none."""
        if end <= 0:
            return end
        for phrase in self._by_last.get(found[end - 1].text, ()):
            start = _backwards(found, end, phrase)
            if start < end:
                return start
        return end

    def firsts(self) -> frozenset[str]:
        """The first words of all phrases."""
        return frozenset(self._by_first)


def _forwards(found: Sequence[Token], at: int, phrase: tuple[str, ...]) -> int:
    end = at
    for i, word in enumerate(phrase):
        if i and end < len(found) and _is_sign(found[end]):
            end += 1
        if end >= len(found) or found[end].text != word:
            return at
        end += 1
    return end


def _backwards(found: Sequence[Token], end: int, phrase: tuple[str, ...]) -> int:
    start = end
    for i, word in enumerate(reversed(phrase)):
        if i and start > 0 and _is_sign(found[start - 1]):
            start -= 1
        if start <= 0 or found[start - 1].text != word:
            return end
        start -= 1
    return start


def _is_sign(token: Token) -> bool:
    return token.form in (Form.SIGN, Form.BREAK)


@dataclass(frozen=True, slots=True)
class Language:
    """How one language states ages; the files in `tables` say what each list is for."""

    name: str
    numbers: dict[str, int]
    own_numbers: frozenset[str]
    ordinals: dict[str, int]
    compounds: re.Pattern[str] | None
    ands: frozenset[str]
    links: frozenset[str]
    fill: frozenset[str]
    is_fill: frozenset[str]
    unit_fill: frozenset[str]
    eras: frozenset[str]
    persons: frozenset[str]
    person_plurals: frozenset[str]
    person_words: frozenset[str]
    never_counted: frozenset[str]
    functions: frozenset[str]
    plural: tuple[str, ...]
    not_plural: tuple[str, ...]
    things: frozenset[str]
    thing_words: frozenset[str]
    thing_links: frozenset[str]
    ordinal_marks: frozenset[str]
    labels: frozenset[str]
    owners: frozenset[str]
    halves: PhraseSet
    age_units: PhraseSet
    time_units: PhraseSet
    infant_units: PhraseSet
    short_units: PhraseSet
    time_before: PhraseSet
    time_after: PhraseSet
    markers: PhraseSet
    unit_before: PhraseSet
    is_phrases: PhraseSet
    is_plural: PhraseSet
    weak_is: PhraseSet
    quantities: PhraseSet
    younger: PhraseSet
    measures: PhraseSet
    births: PhraseSet
    life_years: PhraseSet
    maturing: PhraseSet
    birthdays: PhraseSet
    grades: PhraseSet
    plain_grades: PhraseSet
    not_birthdays: PhraseSet

    def concerns(self, words: frozenset[str]) -> bool:
        """Whether a text of these words may state an age in this language."""
        triggers = (
            self.age_units, self.time_units, self.infant_units, self.markers, self.unit_before, self.is_phrases,
            self.is_plural, self.weak_is, self.quantities, self.younger, self.birthdays, self.grades, self.plain_grades,
            self.life_years,
        )  # fmt: skip
        return (
            # Names need no word of any language.
            self.name == "en"
            or any(not words.isdisjoint(phrases.firsts()) for phrases in triggers)
            or not words.isdisjoint(self.persons)
            or any(word.startswith(self.age_units.stems) for word in words if self.age_units.stems)
            or (self.compounds is not None and any(self.compounds.fullmatch(word) for word in words))
        )


@cache
def languages() -> tuple[Language, ...]:
    """All tables; each reads the other languages' number words too, but for those that are ordinary words elsewhere."""
    raw = {name: _read(name) for name in LANGUAGES}
    words = {name: number_words(table["numbers"]) for name, table in raw.items()}
    shared: dict[str, int] = {}
    for name, table in raw.items():
        ambiguous = frozenset(map(fold, table["numbers"]["ambiguous"].split()))
        shared |= {word: value for word, value in words[name].items() if word not in ambiguous}
    lists = {key: [entry for table in raw.values() for entry in table.get(key, ())] for key in _SHARED_LISTS}
    return tuple(
        _language(name, raw[name] | lists | {"own_and": raw[name]["and"]}, words[name], shared) for name in LANGUAGES
    )


def _read(name: str) -> dict[str, Any]:
    path = files("worker.content.ages").joinpath("tables", f"{name}.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _language(name: str, table: dict[str, Any], own: dict[str, int], shared: dict[str, int]) -> Language:
    def phrases(key: str) -> PhraseSet:
        return PhraseSet(table.get(key, ()))

    def single(key: str) -> frozenset[str]:
        return frozenset(map(fold, table.get(key, ())))

    units = phrases("age_units")
    return Language(
        name=name,
        numbers=shared | own,
        own_numbers=frozenset(own),
        ordinals={
            fold(word): i + 1 for i, found in enumerate(table.get("ordinals", "").split()) for word in found.split("/")
        },
        compounds=_compounds(own, units.stems + phrases("infant_units").stems),
        ands=single("and"),
        links=frozenset(map(fold, (*table["own_and"], *table["to"]))),
        fill=single("fill") | single("is_fill"),
        is_fill=single("is_fill"),
        unit_fill=single("unit_fill"),
        eras=single("eras"),
        persons=single("persons"),
        person_plurals=single("person_plurals"),
        person_words=single("person_words"),
        never_counted=single("never_counted"),
        functions=single("functions"),
        plural=tuple(map(fold, table.get("plural", ()))),
        not_plural=tuple(table.get("not_plural", ())),
        things=single("things"),
        thing_words=single("thing_words"),
        thing_links=single("thing_links"),
        ordinal_marks=single("ordinal_marks"),
        labels=single("labels"),
        owners=single("owners"),
        halves=phrases("halves"),
        age_units=units,
        time_units=phrases("time_units"),
        infant_units=phrases("infant_units"),
        short_units=phrases("short_units"),
        time_before=PhraseSet((*table["time_before"], *table.get("time_before_here", ()))),
        time_after=phrases("time_after"),
        markers=phrases("markers"),
        unit_before=phrases("unit_before"),
        is_phrases=phrases("is"),
        is_plural=phrases("is_plural"),
        weak_is=phrases("weak_is"),
        quantities=phrases("quantities"),
        younger=phrases("younger"),
        measures=phrases("measures"),
        births=phrases("births"),
        life_years=phrases("life_years"),
        maturing=phrases("maturing"),
        birthdays=phrases("birthdays"),
        grades=phrases("grades"),
        plain_grades=phrases("plain_grades"),
        not_birthdays=phrases("not_birthdays"),
    )


def _compounds(numbers: dict[str, int], stems: tuple[str, ...]) -> re.Pattern[str] | None:
    """Fünfzehnjährige, пятнадцатилетняя: a small number and a unit in one word."""
    if not stems:
        return None
    small = sorted((word for word, value in numbers.items() if value < ADULT_YEARS), key=len, reverse=True)
    return re.compile(f"(?:{'|'.join(map(re.escape, small))})(?:{'|'.join(stems)})[^\\W\\d_]*")
