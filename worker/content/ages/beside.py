"""Ordinals of birthdays and grades, and numbers next to persons: 16th birthday, girl, 15. Pure."""

from __future__ import annotations

from worker.content.ages.counting import is_measured
from worker.content.ages.language import ADULT_YEARS
from worker.content.ages.lexer import Form
from worker.content.ages.roman import ROMAN
from worker.content.ages.text import Text

_GRADE_MAX = 12
# Smaller numbers beside a person are counts more often than ages.
_CLOSED_MIN, _PERSON_MIN, _NAME_MIN, _AGE_MIN = 10, 12, 13, 3


def is_ordinal(text: Text, at: int, value: int) -> bool:
    """16th birthday, 8. Klasse."""
    language, found = text.language, text.found
    token = found[at]
    after = at + 1
    if token.form is not Form.ORDINAL:
        marks = 0
        while marks < 2 and after < len(found) and found[after].text in language.ordinal_marks:
            after, marks = after + 1, marks + 1
        if not marks:
            # Su 15 cumpleaños, 8 класс.
            return _is_birthday(text, after) or (
                value <= _GRADE_MAX and language.plain_grades.end(found, after) > after
            )
    return _is_birthday_or_grade(text, at, after, value)


def is_minor_word(text: Text, at: int) -> bool:
    """Fünfzehnjährige, sixteenth birthday, XV years old."""
    language, found = text.language, text.found
    word = found[at].text
    if language.compounds is not None and language.compounds.fullmatch(word):
        return True
    if word in language.ordinals:
        value = language.ordinals[word] + _tens_before(text, at)
        if value < ADULT_YEARS and _is_birthday_or_grade(text, at, at + 1, value):
            return True
    return word in ROMAN and language.age_units.end(found, at + 1) > at + 1


def beside_person(text: Text, at: int) -> bool:
    """Girl, 15; girl (15); girl 15; a 15 girl; 15, female; Emma (15)."""
    language, found = text.language, text.found
    token, value = found[at], found[at].values[0]
    if token.form is not Form.PLAIN or value < _AGE_MIN or text.is_glued(at) or text.is_glued(at + 1):
        return False
    if text.word(at + 1) in language.persons and value >= _PERSON_MIN:
        before = text.word(at - 1)
        return at == 0 or not before or before in language.person_words
    goes_on = value >= _CLOSED_MIN and text.word(at + 1) in language.functions
    starts = at == 0 or found[at - 1].form is Form.BREAK
    if starts and text.is_text(at + 1, ",") and text.word(at + 2) in language.persons and value >= _PERSON_MIN:
        return True
    if not text.is_closed(at) and not (goes_on and not is_measured(found, at, language)):
        return False
    if text.word(at - 1) in language.persons:
        return value >= _CLOSED_MIN
    if value >= _NAME_MIN and _is_named(text, at):
        return True
    sign = found[at - 1] if at else None
    if sign is None or text.word(at - 2) not in language.persons:
        return False
    return sign.text in ("(", ",", "[", "{") or (
        sign.text in (":", "-", "–", "—", ";", "/", "|") and value >= _CLOSED_MIN
    )


def _is_birthday_or_grade(text: Text, at: int, after: int, value: int) -> bool:
    language, found = text.language, text.found
    after += text.is_text(after, "-")
    if text.word(at - 1) in language.owners and language.life_years.end(found, after) > after:
        return True
    return _is_birthday(text, after) or (value <= _GRADE_MAX and language.grades.end(found, after) > after)


def _is_birthday(text: Text, after: int) -> bool:
    language, found = text.language, text.found
    end = language.birthdays.end(found, after)
    return end > after and language.not_birthdays.end(found, end) == end


def _tens_before(text: Text, at: int) -> int:
    """Twenty of twenty-first, dix of dix-septième."""
    before = at - 2 if text.is_text(at - 1, "-") else at - 1
    value = text.found[before].values[0] if text.is_number(before) else 0
    return value if value >= 10 and value % 10 == 0 else 0


def _is_named(text: Text, at: int) -> bool:
    """Lily, 14, from Ohio; Emma (16): any word may be a name, but for those that label numbers."""
    name = text.word(at - 2)
    if not name or name in text.language.labels or text.is_number(at + 2) or at + 1 >= len(text.found):
        return False
    before, after = text.found[at - 1].text, text.found[at + 1].text
    return (before == "," == after and bool(text.word(at + 2))) or (before in ("(", "[", "{") and after[0] in ")]}")
