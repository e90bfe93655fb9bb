"""Numbers that a unit follows: 15 years old, 15 ans, six months old. Pure."""

from __future__ import annotations

from worker.content.ages.counting import is_of_thing, is_time
from worker.content.ages.lexer import Form
from worker.content.ages.text import Text

_GAP_WORDS_MAX = 2


def before_unit(text: Text, at: int) -> bool:
    language, found = text.language, text.found
    start, after = text.first_of_list(at), text.after_number(at)
    for strong in (True, False):
        units = language.age_units if strong else language.time_units
        # A sign may stand before the unit, and a full clause border only before one that is always an age.
        unit = after + 1 if after < len(found) and text.is_sign(after, breaks=strong) else after
        end = units.end(found, unit)
        if end == unit and strong:
            unit = _across_gap(text, after)
            end = units.end(found, unit)
        if end > unit:
            return not is_of_thing(found, start, end, language) and (strong or not is_time(found, start, end, language))
    return False


def before_infant_unit(text: Text, at: int) -> bool:
    language, found = text.language, text.found
    after = text.after_number(at)
    after += after < len(found) and text.is_sign(after, breaks=False)
    end = language.infant_units.end(found, after)
    return end > after and not is_of_thing(found, text.first_of_list(at), end, language)


def _across_gap(text: Text, at: int) -> int:
    """Where a unit begins beyond one or two words of any kind; `at` where none can."""
    language, found = text.language, text.found
    for end in range(at, min(at + _GAP_WORDS_MAX, len(found))):
        if found[end].form is not Form.WORD or language.measures.end(found, end) > end:
            return at
        if language.age_units.end(found, end + 1) > end + 1:
            return end + 1
    return at
