"""Numbers in words, of all languages of the tables, as numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker.content.ages.lexer import HUGE, Form, Token
from worker.content.fold import fold

_VOWELS = "aeiou"


def number_words(table: Mapping[str, Any]) -> dict[str, int]:
    """The number words of one language, folded, by its `numbers` table.

    Args:
        table: `small`, lists of words that count up from a first one, spellings parted by a slash; `tens` from twenty
            on; `large` by value; `compound`, how one word is made of tens and ones (`{ones}und{tens}`); `elided`,
            whether the tens lose their last vowel before another (ventuno); `suffixes`, what may
            end a word (fünfzehneinhalb, fifteenish).
    """
    words: dict[str, int] = {}
    for series in table["small"]:
        for i, spellings in enumerate(series["words"].split()):
            words |= {fold(word): series["first"] + i for word in spellings.split("/")}
    tens = {fold(word): 10 * (i + 2) for i, found in enumerate(table["tens"].split()) for word in found.split("/")}
    ones = {word: value for word, value in words.items() if 0 < value < 10}
    compound = table.get("compound")
    if compound:
        for ten, value in tens.items():
            for one, more in ones.items():
                stem = ten[:-1] if table.get("elided") and one[0] in _VOWELS else ten
                words[compound.format(tens=stem, ones=one)] = value + more
    for suffix in table.get("suffixes", ()):
        words |= {word + suffix: value for word, value in words.items()}
    large = {fold(word): int(value) for value, found in table["large"].items() for word in found.split()}
    return words | tens | large


def merge_numbers(found: Sequence[Token], words: Mapping[str, int], ands: frozenset[str]) -> list[Token]:
    """The tokens with every run of number words as one number: `twenty`, `-`, `five` is 25."""
    merged, at = [], 0
    while at < len(found):
        token = found[at]
        value, end = _number(found, at, words, ands)
        if end > at:
            merged.append(Token(" ".join(t.text for t in found[at:end]), Form.PLAIN, (value,), token.glued))
            at = end
        else:
            merged.append(token)
            at += 1
    return merged


def _number(found: Sequence[Token], at: int, words: Mapping[str, int], ands: frozenset[str]) -> tuple[int, int]:
    """The number that begins at `at` and needs words, and where it ends: at once where there is none."""
    first = found[at]
    if first.form in (Form.PLAIN, Form.DECIMAL):
        total, end, digits = first.values[0], at + 1, True
    elif first.text in words:
        total, end, digits = words[first.text], at + 1, False
    else:
        return 0, at
    start = end
    while end < len(found):
        skip = _between(found, end, ands if total >= 20 else frozenset())
        value = words.get(found[end + skip].text, 0) if end + skip < len(found) else 0
        # Quatre-vingt is four twenties; soixante and quatre-vingt go on to nineteen, the other tens to nine.
        if value >= 100 or (total == 4 and value == 20 and not digits):
            total = min(HUGE, max(1, total) * value)
        elif not digits and total >= 10 and total % 10 == 0 and 0 < value < (20 if total in (60, 80) else 10):
            total += value
        else:
            break
        end += skip + 1
    return (0, at) if digits and end == start else (total, end)


def _between(found: Sequence[Token], at: int, ands: frozenset[str]) -> int:
    """How many tokens a number goes on across: a hyphen, or `and`."""
    return 1 if found[at].text == "-" or found[at].text in ands else 0
