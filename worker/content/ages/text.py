"""One text in one language, and the questions about its tokens that every rule of the grammar asks. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from worker.content.ages.counting import is_counted, stands_alone
from worker.content.ages.language import Language
from worker.content.ages.lexer import Form, Token

# How far lists and closed words are followed from a number, in tokens.
LIST_MAX = 6
FILL_MAX = 7
_DENOMINATOR_MAX = 10
_JOINTS = frozenset({"-", "–", "—", "~", "〜", "/", "&", "+", ".."})


class Text:
    """The tokens of a text, numbers merged; every index may lie outside of them."""

    def __init__(self, found: Sequence[Token], language: Language) -> None:
        self.found = found
        self.language = language
        self._ends: dict[int, int] = {}

    def word(self, at: int) -> str:
        if 0 <= at < len(self.found) and self.found[at].form is Form.WORD:
            return self.found[at].text
        return ""

    def is_number(self, at: int) -> bool:
        return 0 <= at < len(self.found) and self.found[at].is_number

    def is_text(self, at: int, text: str) -> bool:
        return 0 <= at < len(self.found) and self.found[at].text == text

    def is_sign(self, at: int, *, breaks: bool) -> bool:
        form = self.found[at].form
        return form is Form.SIGN or (breaks and form is Form.BREAK)

    def is_glued(self, at: int) -> bool:
        """Whether a word is written right at what stands before it: 16 and k of `16k`."""
        return 0 <= at < len(self.found) and self.found[at].glued and self.found[at].form is Form.WORD

    def is_closed(self, at: int) -> bool:
        """Whether the clause ends after the number, or its list goes on."""
        return (stands_alone(self.found, at) and not self.is_number(at + 1)) or self.links(at + 1)

    def links(self, at: int) -> bool:
        """Whether the token at `at` joins two numbers: 12 to 15, 12-15."""
        text = self.found[at].text if at < len(self.found) else ""
        return (text in self.language.links or text in _JOINTS) and self.is_number(at + 1)

    def joins(self, at: int) -> bool:
        return self.is_text(at, ",") or self.links(at)

    def is_fraction(self, at: int) -> bool:
        """The 1/2 of `25 1/2 years old`."""
        token = self.found[at]
        if token.form is not Form.SLASH or not self.is_number(at - 1):
            return False
        return token.values[0] < token.values[1] <= _DENOMINATOR_MAX

    def first_of_list(self, at: int) -> int:
        """The first number of the list or range that ends at `at`: 12 of `12 to 15`."""
        for _ in range(LIST_MAX):
            before = at - 1
            if before > 0 and self.is_number(before - 1) and self.joins(before):
                at = before - 1
            else:
                break
        return at

    def starts_before(self, at: int) -> tuple[int, ...]:
        """Where a marker may end before the number: right before it, or before the list that it ends."""
        language, found = self.language, self.found
        first = self.first_of_list(at)
        listed = first < at and not is_counted(found, at, language, persons=True)
        if listed and found[at - 1].text == "," and not (self.is_closed(at) and found[at].form is Form.PLAIN):
            listed = False
        return (at, first) if listed else (at,)

    def after_number(self, at: int) -> int:
        """Where the unit of the number at `at` would begin: after halves, further numbers and closed words."""
        if at not in self._ends:
            self._ends[at] = self._find_end(at)
        return self._ends[at]

    def _find_end(self, at: int) -> int:
        language, found = self.language, self.found
        end, commas = at + 1, False
        for _ in range(LIST_MAX):
            half = language.halves.end(found, end)
            if half == end and end < len(found) and found[end].form is Form.SIGN:
                # 15 & a half.
                half = language.halves.end(found, end + 1) if language.halves.end(found, end + 1) > end + 1 else end
            if half > end:
                end = half
            elif end < len(found) and found[end].form is Form.SLASH:
                end += 1
            elif self.links(end):
                commas, end = False, end + 2
            elif self.is_text(end, ",") and self.is_number(end + 1):
                commas, end = True, end + 2
            else:
                break
        if commas:
            return at + 1
        for _ in range(FILL_MAX):
            hyphen = self.is_text(end, "-")
            if self.word(end + hyphen) in language.unit_fill and not language.age_units.end(found, end) > end:
                end += hyphen + 1
            else:
                break
        return end

    def has_own_unit(self, at: int) -> bool:
        after = self.after_number(at)
        units = (self.language.age_units, self.language.time_units)
        return any(found.end(self.found, after) > after for found in units)
