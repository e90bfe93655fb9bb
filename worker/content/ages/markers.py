"""Numbers behind a word for age: aged just 15, age: 15. Pure."""

from __future__ import annotations

from worker.content.ages.counting import is_counted, is_measured, is_of_thing
from worker.content.ages.lexer import Form
from worker.content.ages.text import FILL_MAX, Text


def after_marker(text: Text, at: int) -> bool:
    if text.found[at].form is Form.ORDINAL:
        return False
    return any(_marker_before(text, at, start) for start in text.starts_before(at))


def _marker_before(text: Text, at: int, start: int) -> bool:
    language, found = text.language, text.found
    end, broken = start, False
    for _ in range(FILL_MAX):
        begin = language.markers.start(found, end)
        if begin < end and not _is_era(text, begin, end, at) and not (broken and _is_other(text, at)):
            return not _is_age_of_thing(text, at, begin)
        begin = language.unit_before.start(found, end)
        if begin < end and not text.is_number(begin - 1) and not is_measured(found, at, language):
            return not text.has_own_unit(at) and not (broken and _is_other(text, at))
        before = end - 1
        if before < 0:
            return False
        if found[before].form is Form.BREAK and not broken:
            broken = True
        elif found[before].form is not Form.SIGN and found[before].text not in language.fill:
            return False
        end = before
    return False


def _is_era(text: Text, begin: int, end: int, at: int) -> bool:
    """Dragon Age 2, Middle Ages 12: of one word, and no person next to the number."""
    is_era = end - begin == 1 and begin > 0 and text.found[begin - 1].text in text.language.eras
    return is_era and not {text.word(at + 1), text.word(at + 2)} & text.language.persons


def _is_other(text: Text, at: int) -> bool:
    """Across the border of a clause: anything but a plain number that counts nothing."""
    if text.found[at].form is not Form.PLAIN:
        return True
    return is_counted(text.found, at, text.language, persons=True) or text.is_glued(at + 1)


def _is_age_of_thing(text: Text, at: int, begin: int) -> bool:
    """Wine aged 12 years in oak, cheese aged 14 months; without a unit it may be someone's."""
    language = text.language
    after = text.after_number(at)
    end = language.short_units.end(text.found, after)
    return end > after and is_of_thing(text.found, begin, end, language)
