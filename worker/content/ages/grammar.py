"""Ages under 18 that tokens state, by the table of one language. Pure.

A number is an age by what stands around it: a unit after it (`15 and a half years old`), a marker before it (`aged
just 15`), a sentence about someone (`she is 15`), a bound (`under 18`), an ordinal (`16th birthday`), or a person next
to it (`girl, 15`). Every look around is bounded, so the time is linear. When in doubt it is an age.
"""

from __future__ import annotations

from collections.abc import Sequence

from worker.content.ages.counting import is_counted, is_measured, is_of_thing, is_time, stands_alone
from worker.content.ages.language import ADULT_YEARS, Language
from worker.content.ages.lexer import Form, Token
from worker.content.ages.roman import ROMAN

_LIST_MAX = 6
_FILL_MAX = 7
_GAP_WORDS_MAX = 2
# Bounds below this are said of much else: under 5, almost 10.
_BOUND_MIN = 13
_GRADE_MAX = 12
_DENOMINATOR_MAX = 10
_RATINGS = (5, 10, 100)
_JOINTS = frozenset({"-", "–", "—", "~", "〜", "/", "&", "+", ".."})


class AgeReader:
    """Looks at the tokens of one text, numbers merged, in one language."""

    def __init__(self, found: Sequence[Token], language: Language) -> None:
        self._found = found
        self._language = language

    def states_minor_age(self) -> bool:
        """Whether any of the numbers is the age of a minor."""
        return any(self._is_minor_age(at) for at in range(len(self._found)))

    def _is_minor_age(self, at: int) -> bool:
        token = self._found[at]
        if token.form is Form.WORD:
            return self._is_minor_word(at)
        if not token.is_number or self._is_fraction(at):
            return False
        if self._before_infant_unit(at):
            return True
        youngest = min(token.values)
        if youngest > ADULT_YEARS:
            return False
        if self._below_bound(at):
            return True
        return youngest < ADULT_YEARS and (
            self._before_unit(at)
            or self._after_marker(at)
            or self._in_sentence(at)
            or self._is_ordinal(at, youngest)
            or self._beside_person(at)
        )

    def _is_fraction(self, at: int) -> bool:
        """The 1/2 of `25 1/2 years old`."""
        token = self._found[at]
        if token.form is not Form.SLASH or not self._is_number(at - 1):
            return False
        return token.values[0] < token.values[1] <= _DENOMINATOR_MAX

    # after the number

    def _before_unit(self, at: int) -> bool:
        language, found = self._language, self._found
        start, after = self._first_of_list(at), self._after_number(at)
        for strong in (True, False):
            units = language.age_units if strong else language.time_units
            # A sign may stand before the unit, and a full clause border only before one that is always an age.
            unit = after + 1 if after < len(found) and self._is_sign(after, breaks=strong) else after
            end = units.end(found, unit)
            if end == unit and strong:
                unit = self._across_gap(after)
                end = units.end(found, unit)
            if end > unit:
                return not is_of_thing(found, start, end, language) and (
                    strong or not is_time(found, start, end, language)
                )
        return False

    def _before_infant_unit(self, at: int) -> bool:
        language, found = self._language, self._found
        after = self._after_number(at)
        after += after < len(found) and self._is_sign(after, breaks=False)
        end = language.infant_units.end(found, after)
        return end > after and not is_of_thing(found, self._first_of_list(at), end, language)

    def _after_number(self, at: int) -> int:
        """Where the unit of the number at `at` would begin: after halves, further numbers and closed words."""
        language, found = self._language, self._found
        end, commas = at + 1, False
        for _ in range(_LIST_MAX):
            half = language.halves.end(found, end)
            if half > end:
                end = half
            elif end < len(found) and found[end].form is Form.SLASH:
                end += 1
            elif self._links(end):
                commas, end = False, end + 2
            elif self._is_text(end, ",") and self._is_number(end + 1):
                commas, end = True, end + 2
            else:
                break
        if commas:
            return at + 1
        for _ in range(_FILL_MAX):
            hyphen = self._is_text(end, "-")
            if self._word(end + hyphen) in language.unit_fill and not language.age_units.end(found, end) > end:
                end += hyphen + 1
            else:
                break
        return end

    def _across_gap(self, at: int) -> int:
        """Where a unit begins beyond one or two words of any kind; `at` where none can."""
        language, found = self._language, self._found
        for end in range(at, min(at + _GAP_WORDS_MAX, len(found))):
            if found[end].form is not Form.WORD or language.measures.end(found, end) > end:
                return at
            if language.age_units.end(found, end + 1) > end + 1:
                return end + 1
        return at

    # before the number

    def _first_of_list(self, at: int) -> int:
        """The first number of the list or range that ends at `at`: 12 of `12 to 15`."""
        for _ in range(_LIST_MAX):
            before = at - 1
            if before > 0 and self._is_number(before - 1) and self._joins(before):
                at = before - 1
            else:
                break
        return at

    def _starts_before(self, at: int) -> tuple[int, ...]:
        """Where a marker may end before the number: right before it, or before the list that it ends."""
        language, found = self._language, self._found
        first = self._first_of_list(at)
        listed = first < at and not is_counted(found, at, language, persons=True)
        if listed and found[at - 1].text == "," and not self._is_closed(at):
            listed = False
        return (at, first) if listed else (at,)

    def _after_marker(self, at: int) -> bool:
        if self._found[at].form is Form.ORDINAL:
            return False
        return any(self._marker_before(at, start) for start in self._starts_before(at))

    def _marker_before(self, at: int, start: int) -> bool:
        language, found = self._language, self._found
        end, broken = start, False
        for _ in range(_FILL_MAX):
            begin = language.markers.start(found, end)
            if begin < end and not self._is_era(begin, end, at) and not (broken and self._is_other(at)):
                return not self._is_age_of_thing(at, begin)
            begin = language.unit_before.start(found, end)
            if begin < end and not self._is_number(begin - 1) and not is_measured(found, at, language):
                return not self._has_own_unit(at) and not (broken and self._is_other(at))
            before = end - 1
            if before < 0:
                return False
            if found[before].form is Form.BREAK and not broken:
                broken = True
            elif found[before].form is not Form.SIGN and found[before].text not in language.fill:
                return False
            end = before
        return False

    def _is_era(self, begin: int, end: int, at: int) -> bool:
        """Dragon Age 2, Middle Ages 12: of one word, and no person next to the number."""
        is_era = end - begin == 1 and begin > 0 and self._found[begin - 1].text in self._language.eras
        return is_era and self._word(at + 1) not in self._language.persons

    def _is_other(self, at: int) -> bool:
        """Across the border of a clause: anything but a plain number that counts nothing."""
        if self._found[at].form is not Form.PLAIN:
            return True
        return is_counted(self._found, at, self._language, persons=True) or self._is_glued(at + 1)

    def _is_age_of_thing(self, at: int, begin: int) -> bool:
        """Wine aged 12 years in oak, cheese aged 14 months; without a unit it may be someone's."""
        language = self._language
        after = self._after_number(at)
        end = language.short_units.end(self._found, after)
        return end > after and is_of_thing(self._found, begin, end, language)

    def _has_own_unit(self, at: int) -> bool:
        after = self._after_number(at)
        units = (self._language.age_units, self._language.time_units)
        return any(found.end(self._found, after) > after for found in units)

    def _in_sentence(self, at: int) -> bool:
        """She is 15, but not she is 15 cm, 9/10 or one of them."""
        language, found = self._language, self._found
        token = found[at]
        if token.form not in (Form.PLAIN, Form.DECIMAL, Form.SLASH) or min(token.values) < 2 or self._is_rating(at):
            return False
        if is_measured(found, at, language) or (self._is_number(at + 1) and not self._is_closed(at)):
            return False
        return any(self._sentence_before(at, start) for start in self._starts_before(at))

    def _sentence_before(self, at: int, start: int) -> bool:
        language, found = self._language, self._found
        end, bounded = start, False
        for _ in range(_FILL_MAX):
            if language.is_plural.start(found, end) < end:
                return not is_counted(found, at, language, persons=True)
            if language.is_phrases.start(found, end) < end:
                # Around, under and their like may be said of places: she is under 12 lamps.
                return not (bounded and is_counted(found, at, language, persons=True))
            if language.weak_is.start(found, end) < end and self._is_person_or_nothing(at):
                return True
            before = end - 1
            if before < 0 or not (found[before].form is Form.SIGN or found[before].text in language.is_fill):
                return False
            bounded = True
            end = before
        return False

    def _is_person_or_nothing(self, at: int) -> bool:
        after = self._word(at + 1)
        token = self._found[at]
        if token.form is not Form.PLAIN or token.values[0] < _BOUND_MIN - 1 or self._is_glued(at + 1):
            return False
        # Im 12. Jahrhundert.
        if self._is_text(at + 1, ".") and self._word(at + 2):
            return False
        return stands_alone(self._found, at) or after in self._language.persons

    def _below_bound(self, at: int) -> bool:
        """Under 18, but not under 16 lamps, nearly 16:9 or almost 17:00."""
        language, found = self._language, self._found
        token = found[at]
        of_age = self._has_own_unit(at)
        if token.form not in (Form.PLAIN, Form.DECIMAL, Form.SLASH):
            return False
        if not of_age and is_measured(found, at, language):
            return False
        value, end = min(token.values), at
        for _ in range(_FILL_MAX):
            if language.younger.start(found, end) < end:
                return value > 1
            begin = language.quantities.start(found, end)
            if begin < end:
                low = 2 if self._word(begin - 1) in language.persons | language.person_plurals else _BOUND_MIN
                return value >= low and (of_age or not is_counted(found, at, language, persons=False))
            before = end - 1
            if before < 0 or not (found[before].text in language.fill or found[before].form is Form.SIGN):
                return False
            end = before
        return False

    # beside the number

    def _is_ordinal(self, at: int, value: int) -> bool:
        """16th birthday, 8. Klasse."""
        language, found = self._language, self._found
        token = found[at]
        after = at + 1
        if token.form is not Form.ORDINAL:
            marks = 0
            while marks < 2 and after < len(found) and found[after].text in language.ordinal_marks:
                after, marks = after + 1, marks + 1
            if not marks:
                # Su 15 cumpleaños, 8 класс.
                return self._is_birthday(after) or (
                    value <= _GRADE_MAX and language.plain_grades.end(found, after) > after
                )
        return self._is_birthday_or_grade(at, after, value)

    def _is_birthday_or_grade(self, at: int, after: int, value: int) -> bool:
        language, found = self._language, self._found
        after += self._is_text(after, "-")
        if self._word(at - 1) in language.owners and language.life_years.end(found, after) > after:
            return True
        return self._is_birthday(after) or (value <= _GRADE_MAX and language.grades.end(found, after) > after)

    def _is_birthday(self, after: int) -> bool:
        language, found = self._language, self._found
        end = language.birthdays.end(found, after)
        return end > after and language.not_birthdays.end(found, end) == end

    def _is_minor_word(self, at: int) -> bool:
        """Fünfzehnjährige, sixteenth birthday, XV years old."""
        language, found = self._language, self._found
        word = found[at].text
        if language.compounds is not None and language.compounds.fullmatch(word):
            return True
        if word in language.ordinals:
            value = language.ordinals[word] + self._tens_before(at)
            if value < ADULT_YEARS and self._is_birthday_or_grade(at, at + 1, value):
                return True
        return word in ROMAN and language.age_units.end(found, at + 1) > at + 1

    def _tens_before(self, at: int) -> int:
        """Twenty of twenty-first, dix of dix-septième."""
        before = at - 2 if self._is_text(at - 1, "-") else at - 1
        value = self._found[before].values[0] if self._is_number(before) else 0
        return value if value >= 10 and value % 10 == 0 else 0

    def _beside_person(self, at: int) -> bool:
        """Girl, 15; girl (15); girl 15; a 15 girl; 15, female; Emma (15)."""
        language, found = self._language, self._found
        token, value = found[at], found[at].values[0]
        if token.form is not Form.PLAIN or value < 3 or self._is_glued(at) or self._is_glued(at + 1):
            return False
        if self._word(at + 1) in language.persons and value >= _BOUND_MIN - 1:
            before = self._word(at - 1)
            return at == 0 or not before or before in language.person_words
        goes_on = value >= _BOUND_MIN - 3 and self._word(at + 1) in language.functions
        if self._is_text(at + 1, ",") and self._word(at + 2) in language.persons and value >= _BOUND_MIN - 1:
            # 15, female, at the start of a clause.
            return at == 0 or found[at - 1].form is Form.BREAK
        if not self._is_closed(at) and not (goes_on and not is_measured(found, at, language)):
            return False
        if self._word(at - 1) in language.persons:
            return value >= _BOUND_MIN - 3
        if value >= _BOUND_MIN and self._is_named(at):
            return True
        sign = found[at - 1] if at else None
        if sign is None or self._word(at - 2) not in language.persons:
            return False
        return sign.text in ("(", ",", "[") or (
            sign.text in (":", "-", "–", "—", ";", "/", "|") and value >= _BOUND_MIN - 3
        )

    def _is_named(self, at: int) -> bool:
        """Lily, 14, from Ohio; Emma (16): any word may be a name, but for those that label numbers."""
        name = self._word(at - 2)
        if not name or name in self._language.labels or self._is_number(at + 2) or at + 1 >= len(self._found):
            return False
        before, after = self._found[at - 1].text, self._found[at + 1].text
        return (before == "," == after and bool(self._word(at + 2))) or (before == "(" and after.startswith(")"))

    # tokens

    def _word(self, at: int) -> str:
        if 0 <= at < len(self._found) and self._found[at].form is Form.WORD:
            return self._found[at].text
        return ""

    def _is_number(self, at: int) -> bool:
        return 0 <= at < len(self._found) and self._found[at].is_number

    def _is_text(self, at: int, text: str) -> bool:
        return 0 <= at < len(self._found) and self._found[at].text == text

    def _is_sign(self, at: int, *, breaks: bool) -> bool:
        form = self._found[at].form
        return form is Form.SIGN or (breaks and form is Form.BREAK)

    def _is_glued(self, at: int) -> bool:
        """Whether a word is written right at what stands before it: 16 and k of `16k`."""
        return 0 <= at < len(self._found) and self._found[at].glued and self._found[at].form is Form.WORD

    def _is_closed(self, at: int) -> bool:
        """Whether the clause ends after the number, or its list goes on."""
        return (stands_alone(self._found, at) and not self._is_number(at + 1)) or self._links(at + 1)

    def _links(self, at: int) -> bool:
        """Whether the token at `at` joins two numbers: 12 to 15, 12-15."""
        text = self._found[at].text if at < len(self._found) else ""
        return (text in self._language.links or text in _JOINTS) and self._is_number(at + 1)

    def _joins(self, at: int) -> bool:
        return self._is_text(at, ",") or self._links(at)

    def _is_rating(self, at: int) -> bool:
        """9/10, a 10."""
        token = self._found[at]
        if token.form is Form.SLASH:
            return token.values[1] in _RATINGS
        return self._word(at - 1) in ("a", "perfect", "solid") and token.values[0] <= 10
