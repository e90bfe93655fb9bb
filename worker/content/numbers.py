"""Numbers in words, as digits. Pure, but for reading its table once."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from importlib.resources import files

from worker.content.fold import fold

TABLE = tomllib.loads(files("worker.content").joinpath("ages.toml").read_text(encoding="utf-8"))


def _counted(first: int, words: str) -> dict[str, int]:
    return {fold(word): first + i for i, spellings in enumerate(words.split()) for word in spellings.split("/")}


_TENS = {fold(word): 10 * (i + 2) for words in TABLE["tens"].values() for i, word in enumerate(words.split())}
_LARGE = {fold(word): int(value) for value, words in TABLE["large"].items() for word in words.split()}
_ENGLISH = {
    word
    for series in TABLE["numbers"]
    if series["language"] == "en"
    for word in _counted(series["first"], series["words"])
} | {fold(word) for word in TABLE["tens"]["en"].split()}
# Up to nineteen, by their folded words.
SMALL = {
    word: value for series in TABLE["numbers"] for word, value in _counted(series["first"], series["words"]).items()
}
_VALUES = SMALL | _TENS | _LARGE
_AND = frozenset(map(fold, TABLE["phrases"]["and"]))


def in_digits(found: list[str], is_unit: Callable[[str], bool]) -> Iterator[str]:
    """The tokens of a folded text with their numbers as digits: `twenty`, `five` is 25.

    Args:
        is_unit: whether a token measures time. Words that are not English are numbers only before one, for many are
            ordinary words elsewhere: elf, once, due.
    """
    at = 0
    while at < len(found):
        value, end = _number(found, at)
        english = any(word in _ENGLISH for word in found[at:end])
        if end > at and (english or (end < len(found) and is_unit(found[end]))):
            yield str(value)
            at = end
        else:
            token = found[at]
            # Leading zeros say nothing.
            yield str(int(token)) if token.isdigit() and len(token) <= 3 else token
            at += 1


def _number(found: list[str], at: int) -> tuple[int, int]:
    """The number in words that begins at `at`, and where it ends: at once where there is none."""
    if found[at] not in _VALUES:
        return 0, at
    total, end = _VALUES[found[at]], at + 1
    while end < len(found):
        skip = 1 if found[end] in _AND and total >= 20 else 0
        value = _VALUES.get(found[end + skip], 0) if end + skip < len(found) else 0
        # Quatre-vingt is four twenties; soixante and quatre-vingt go on to nineteen, the other tens to nine.
        if value >= 100 or (total == 4 and value == 20):
            total *= value
        elif total >= 10 and total % 10 == 0 and 0 < value < (20 if total in (60, 80) else 10):
            total += value
        else:
            break
        end += skip + 1
    return total, end
