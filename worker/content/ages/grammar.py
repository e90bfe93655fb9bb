"""Ages under 18 that tokens state, by the table of one language. Pure.

A number is an age by what stands around it: a unit after it (`15 and a half years old`), a marker before it (`aged
just 15`), a sentence about someone (`she is 15`), a bound (`under 18`), an ordinal (`16th birthday`), or a person next
to it (`girl, 15`). Every look around is bounded, so the time is linear. When in doubt it is an age.
"""

from __future__ import annotations

from worker.content.ages.beside import beside_person, is_minor_word, is_ordinal
from worker.content.ages.language import ADULT_YEARS
from worker.content.ages.lexer import Form
from worker.content.ages.markers import after_marker
from worker.content.ages.sentences import below_bound, in_sentence
from worker.content.ages.text import Text
from worker.content.ages.units import before_infant_unit, before_unit


def has_minor_age(text: Text) -> bool:
    """Whether any number or word of the text is the age of a minor."""
    return any(_is_minor_age(text, at) for at in range(len(text.found)))


def _is_minor_age(text: Text, at: int) -> bool:
    token = text.found[at]
    if token.form is Form.WORD:
        return is_minor_word(text, at)
    if not token.is_number or text.is_fraction(at):
        return False
    if before_infant_unit(text, at):
        return True
    youngest = min(token.values)
    if youngest > ADULT_YEARS:
        return False
    if below_bound(text, at):
        return True
    return youngest < ADULT_YEARS and (
        before_unit(text, at)
        or after_marker(text, at)
        or in_sentence(text, at)
        or is_ordinal(text, at, youngest)
        or beside_person(text, at)
    )
