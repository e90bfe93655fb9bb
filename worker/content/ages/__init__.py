"""Ages that a folded text states, in ten languages. Pure, but for reading the tables once.

`lexer` makes tokens, `glued` splits words written together, `windows` keeps what is near numbers, `numbers` merges
number words, `language` holds the table of a language; `grammar` decides, by the rules in `units`, `markers`,
`sentences` and `beside`, with the questions in `text` and `counting`. Chinese, Japanese and Korean, which have no
spaces between words, are read by `east_asian`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from worker.content.ages.east_asian import states_minor_age as east_asian_age
from worker.content.ages.glued import join_split, split_glued
from worker.content.ages.grammar import has_minor_age
from worker.content.ages.language import languages
from worker.content.ages.lexer import Token, lex
from worker.content.ages.numbers import merge_numbers
from worker.content.ages.text import Text
from worker.content.ages.windows import near_numbers
from worker.content.disguises import letters_for_signs, separators_as_spaces, spelled_out

# Ages only when written as one: `15 y 20` is Spanish, f/16 is an aperture.
_SHORTHAND = re.compile(
    r"(?<![\w.,/])(?:[0-9]y|1[0-7][yf]|1[0-7][\W_]{0,3}/[\W_]{0,3}f)(?![\w/])"
    r"|(?<![^\W_])u-?1[2-8]s?(?![^\W_])"  # u18, a class of players
    r"|<\s?1[3-8](?![\w.:/%])"
)
_ZERO_FOR_O = re.compile(r"(?<=\dy)0(?![^\W_])")


def states_minor_age(folded: str) -> bool:
    """Whether an age under 18 is stated anywhere in the text, also in disguise."""
    plain = _ZERO_FOR_O.sub("o", folded)
    one_line = plain.replace("\n", " ")
    spaced = separators_as_spaces(plain)
    texts = {plain, spaced, letters_for_signs(plain), letters_for_signs(spaced), spelled_out(one_line)}
    return any(map(_states_minor_age, texts))


def _states_minor_age(text: str) -> bool:
    if _SHORTHAND.search(text):
        return True
    if any(map(_states_minor_age_near, near_numbers(join_split(split_glued(lex(text)))))):
        return True
    return not text.isascii() and east_asian_age(text)


def _states_minor_age_near(tokens: Sequence[Token]) -> bool:
    words = frozenset(token.text for token in tokens)
    return any(
        has_minor_age(Text(merge_numbers(tokens, language.numbers, language.ands), language))
        for language in languages()
        if language.concerns(words)
    )
