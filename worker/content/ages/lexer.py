"""Folded text as words, numbers and signs, where a number keeps the form that it was written in. Pure."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import NamedTuple


class Form(Enum):
    """What a token is; a number by how it is written."""

    WORD = auto()
    PLAIN = auto()  # 15, fifteen
    DECIMAL = auto()  # 15.5, 15,5
    SLASH = auto()  # 14/15
    RATIO = auto()  # 16:9, 17:00
    ORDINAL = auto()  # 15th
    MARKED = auto()  # 15%
    BREAK = auto()  # a sign between clauses
    SIGN = auto()  # any other sign


NUMBERS = frozenset({Form.PLAIN, Form.DECIMAL, Form.SLASH, Form.RATIO, Form.ORDINAL, Form.MARKED})
# What a number that nobody compares is worth: one of more digits than this is no age.
_DIGITS_MAX = 6
HUGE = 10**_DIGITS_MAX


class Token(NamedTuple):
    """A piece of text; `values` are the numbers in it, `glued` says that it follows what is before without a gap."""

    text: str
    form: Form
    values: tuple[int, ...] = ()
    glued: bool = False

    @property
    def is_number(self) -> bool:
        """Whether it states one or more numbers."""
        return self.form in NUMBERS


_SCAN = re.compile(
    r"(?P<word>(?<![^\W_])f\s?/\s?\d+(?:\.\d+)?(?![^\W_])"  # f/16, an aperture
    r"|\d{1,2}[./-]\d{1,2}[./-]\d{4}(?!\d)|\d{4}[./-]\d{1,2}[./-]\d{1,2}(?!\d)"  # dates
    r"|(?<!\d)\d['′]\s?\d{1,2}(?!\d)"  # 5'11, a height
    r"|[^\W\d_]+)"
    r"|(?P<PLAIN>\d{1,3}(?:[,.'’]\d{3})+(?![\d%]))"
    r"|(?P<MARKED>\d+(?:[.,]\d+)?\s?%)"
    r"|(?P<RATIO>\d+(?:\s:\s|:)\d+(?::\d+)*)"
    r"|(?P<SLASH>\d+\s?/\s?\d+)"
    r"|(?P<DECIMAL>\d+[.,]\d+)"
    r"|(?P<ORDINAL>\d+(?:st|nd|rd|th)(?![^\W_]))"
    r"|(?P<number>\d+)(?:-?ish(?![^\W_]))?"  # 15ish
    r"|(?P<sign>[^\w\s]+|_+|\n)"
)
_BREAKS = re.compile(r"[,;!?\n]|\.$")


def lex(folded: str) -> list[Token]:
    """The tokens of folded text, in order; white space is only between them."""
    found, end = [], 0
    for match in _SCAN.finditer(folded):
        kind = match.lastgroup or ""
        text = match[kind]
        found.append(_token(kind, text, _ends_here(folded, match.end()), glued=end == match.start() > 0))
        end = match.end()
    return found


def _ends_here(folded: str, at: int) -> bool:
    return at == len(folded) or folded[at].isspace()


def _token(kind: str, text: str, at_end: bool, *, glued: bool) -> Token:
    if kind == "word":
        return Token(text, Form.WORD, (), glued)
    if kind == "sign":
        # A full stop ends a clause only before a gap: y.o., 16.blonde.
        breaks = _BREAKS.search(text if at_end else text.rstrip("."))
        return Token(text, Form.BREAK if breaks else Form.SIGN, (), glued)
    if kind == "number":
        return Token(text, Form.PLAIN, (_value(text),), glued)
    return Token(text, Form[kind], _values(kind, text), glued)


def _values(kind: str, text: str) -> tuple[int, ...]:
    parts = re.findall(r"\d+", text)
    if kind == "PLAIN":
        return (_value("".join(parts)),)
    # 12,13 are two numbers written close together, 15,5 is one.
    if kind in ("DECIMAL", "MARKED") and not ("," in text and len(parts[1]) == 2):
        return (_value(parts[0]),)
    return tuple(map(_value, parts))


def _value(digits: str) -> int:
    return int(digits) if len(digits) <= _DIGITS_MAX else HUGE
