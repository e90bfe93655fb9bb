"""Numbers that are said of someone, and bounds: she is only 15, under 18. Pure."""

from __future__ import annotations

from worker.content.ages.counting import is_counted, is_measured, stands_alone
from worker.content.ages.lexer import Form
from worker.content.ages.text import FILL_MAX, Text

# Bounds below this are said of much else: under 5, almost 10.
_BOUND_MIN = 13
# The least number that is an age behind a word said of much else: only 15.
_WEAK_MIN = 12
_RATINGS = (5, 10, 100)


def in_sentence(text: Text, at: int) -> bool:
    """She is 15, but not she is 15 cm, 9/10 or one of them."""
    language, found = text.language, text.found
    token = found[at]
    if token.form not in (Form.PLAIN, Form.DECIMAL, Form.SLASH) or min(token.values) < 2 or _is_rating(text, at):
        return False
    if is_measured(found, at, language) or (text.is_number(at + 1) and not text.is_closed(at)):
        return False
    return any(_sentence_before(text, at, start) for start in text.starts_before(at))


def below_bound(text: Text, at: int) -> bool:
    """Under 18, but not under 16 lamps, nearly 16:9 or almost 17:00."""
    language, found = text.language, text.found
    token = found[at]
    of_age = text.has_own_unit(at)
    if token.form not in (Form.PLAIN, Form.DECIMAL, Form.SLASH):
        return False
    if not of_age and is_measured(found, at, language):
        return False
    value, end = min(token.values), at
    for _ in range(FILL_MAX):
        if language.younger.start(found, end) < end:
            return value > 1
        begin = language.quantities.start(found, end)
        if begin < end:
            low = 2 if text.word(begin - 1) in language.persons | language.person_plurals else _BOUND_MIN
            return value >= low and (of_age or not is_counted(found, at, language, persons=False))
        before = end - 1
        if before < 0 or not (found[before].text in language.fill or found[before].form is Form.SIGN):
            return False
        end = before
    return False


def _sentence_before(text: Text, at: int, start: int) -> bool:
    language, found = text.language, text.found
    end, bounded = start, False
    for _ in range(FILL_MAX):
        if language.is_plural.start(found, end) < end:
            return not is_counted(found, at, language, persons=True)
        if language.is_phrases.start(found, end) < end:
            # Around, under and their like may be said of places: she is under 12 lamps.
            return not (bounded and is_counted(found, at, language, persons=True))
        if language.weak_is.start(found, end) < end and _is_person_or_nothing(text, at):
            return True
        before = end - 1
        if before < 0 or not (found[before].form is Form.SIGN or found[before].text in language.is_fill):
            return False
        bounded = True
        end = before
    return False


def _is_person_or_nothing(text: Text, at: int) -> bool:
    after = text.word(at + 1)
    token = text.found[at]
    if token.form is not Form.PLAIN or token.values[0] < _WEAK_MIN or text.is_glued(at + 1):
        return False
    # Im 12. Jahrhundert.
    if text.is_text(at + 1, ".") and text.word(at + 2):
        return False
    return stands_alone(text.found, at) or after in text.language.persons


def _is_rating(text: Text, at: int) -> bool:
    """9/10, a 10."""
    token = text.found[at]
    if token.form is Form.SLASH:
        return token.values[1] in _RATINGS
    return text.word(at - 1) in ("a", "perfect", "solid") and token.values[0] <= 10
