"""What a number near a word of age may be instead of an age: a count, a measure, a time, the age of a thing. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from worker.content.ages.language import Language
from worker.content.ages.lexer import Form, Token

# How far a counted noun may stand from its number: under 16 glowing paper lamps.
_MODIFIERS_MAX = 2
_PLURAL_MIN = 4
_GLUED_UNIT_MAX = 3
_THING_WORDS_MAX = 12
_TIME_FILL_MAX = 4


def stands_alone(found: Sequence[Token], at: int) -> bool:
    """Whether nothing in its clause follows the number at `at`."""
    return at + 1 >= len(found) or found[at + 1].form in (Form.BREAK, Form.SIGN) or found[at + 1].is_number


def is_measured(found: Sequence[Token], at: int, language: Language) -> bool:
    """Whether a unit of measure, or something that is always counted, follows the number."""
    after = _skip_hyphen(found, at + 1)
    if language.measures.end(found, after) > after:
        return True
    # 5in, 16k, 85mm, whatever the letters are short for.
    unit = found[at + 1] if at + 1 < len(found) else None
    return unit is not None and unit.form is Form.WORD and unit.glued and len(unit.text) <= _GLUED_UNIT_MAX


def is_counted(found: Sequence[Token], at: int, language: Language, *, persons: bool) -> bool:
    """Whether the number counts or measures the noun that follows.

    Args:
        persons: whether persons may be what is counted.
    """
    if is_measured(found, at, language):
        return True
    after = _skip_hyphen(found, at + 1)
    for token in found[after : after + _MODIFIERS_MAX + 1]:
        word = token.text
        if token.form is not Form.WORD or word in language.functions or word in language.persons:
            return False
        if word in language.never_counted:
            return False
        if word in language.person_plurals:
            return persons
        if _is_plural(word, language):
            return True
    return False


def _is_plural(word: str, language: Language) -> bool:
    return len(word) >= _PLURAL_MIN and word.endswith(language.plural) and not word.endswith(language.not_plural)


def _skip_hyphen(found: Sequence[Token], at: int) -> int:
    return at + 1 if at < len(found) and found[at].text == "-" else at


def is_time(found: Sequence[Token], start: int, end: int, language: Language) -> bool:
    """Whether the years from `start` to `end` are a time that passed: for 15 years, 15 years ago."""
    if any(language.births.start(found, at) < at for at in range(start, max(0, start - _TIME_FILL_MAX), -1)):
        return False
    if language.time_after.end(found, end) > end:
        return True
    for _ in range(_TIME_FILL_MAX):
        if language.time_before.start(found, start) < start:
            return True
        if start <= 0 or not (found[start - 1].text in language.is_fill or found[start - 1].form is Form.SIGN):
            return False
        start -= 1
    return False


def is_of_thing(found: Sequence[Token], start: int, end: int, language: Language) -> bool:
    """Whether the age from `start` to `end` is a thing's and can be nobody's.

    After it: `12 year old whisky`, but not `12 year old whisky girl`. Before it: `a bottle of wine aged 12 years`,
    where the clause names nothing else, or `a woman with wine aged 12 years in oak`, where only a thing can mature.
    """
    if _names_thing(found, end, language):
        return True
    before = start - 1
    while before >= 0 and found[before].text in language.thing_links:
        before -= 1
    if before < 0 or found[before].text not in language.things:
        return False
    matured = language.maturing.end(found, end)
    if matured > end and _ends_noun(found, matured, language):
        return True
    return _clause_is_of_things(found, before, language) and _ends_noun(found, end, language)


def _names_thing(found: Sequence[Token], at: int, language: Language) -> bool:
    while at < len(found) and found[at].text in language.thing_words and found[at].text not in language.things:
        if found[at].text in language.functions:
            return False
        at += 1
    end = at
    while end < len(found) and found[end].text in language.things:
        end += 1
    return end > at and _ends_noun(found, end, language)


def _ends_noun(found: Sequence[Token], at: int, language: Language) -> bool:
    """Whether no further noun or adjective can follow: whisky, not whisky girl."""
    if at >= len(found) or found[at].form is Form.BREAK:
        return True
    return found[at].text in language.functions and found[at].text not in language.person_words


def _clause_is_of_things(found: Sequence[Token], at: int, language: Language) -> bool:
    first = max(-1, at - _THING_WORDS_MAX)
    for i in range(at, first, -1):
        token = found[i]
        if token.form is Form.BREAK:
            return True
        if token.text not in language.thing_words and token.text not in language.things and token.form is not Form.SIGN:
            return False
    return first == -1
