"""How words are hidden from a search, and how they are found again: signs for letters, gaps in words. Pure."""

from __future__ import annotations

import re

# Digits and signs that stand for letters; those for i, l and one another are all one letter afterwards.
SIGNS = str.maketrans("0345789@$€£¢+1|!¡l", "oeastbgaseictiiiii")
_INNER_SIGN = re.compile(r"(?<=[a-z])[013457@$](?=[a-z])")
GAP = re.compile(r"[\W_]+")
SINGLES = re.compile(r"(?<![^\W_])(?:[^\W_][\W_]{1,3}){2,}[^\W_](?![^\W_])")


# Not between digits, where they make a range, a fraction or a ratio, and not in f/16.
_SEPARATORS = re.compile(r"(?:\s+|(?:(?<=\d)[-_.·•*/|~+=]+(?!\d)|(?<!\d)(?<!\bf)[-_.·•*/|~+=]+))+")


def separators_as_spaces(folded: str) -> str:
    """`fifteen_years-old` as `fifteen years old`, and every gap, also of lines, as one space."""
    return _SEPARATORS.sub(" ", folded)


def letters_for_signs(folded: str) -> str:
    """`ch1ld` as `chiid`: a sign between letters is a letter."""
    return _INNER_SIGN.sub(lambda found: found[0].translate(SIGNS), folded)


def spelled_out(folded: str) -> str:
    """`y-e-a-r-s` and `y e a r s` as `years`; all gaps within such a run are closed."""
    return SINGLES.sub(lambda found: GAP.sub("", found[0]), folded)
