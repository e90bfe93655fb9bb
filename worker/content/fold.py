"""Text as a reader would see it: one spelling for every disguise of a letter. Pure.

The words of the rules are folded by the same function, so a mapping need not be right, only the same on both sides.
"""

from __future__ import annotations

import re
import unicodedata

from worker.content.lookalikes import BY_HAND, CAPITALS, confusables, stylised

# Written, but not seen: soft hyphen, joiners and other zero-width signs, fillers, variation selectors, tags.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)

# By looks a c; its compatible form, and its other case, are a sigma.
_FINAL_SIGMA = str.maketrans("ϲϹς", "ccc")

# `15½` is 15 and a half: without the gap its compatible form is 151⁄2.
_FRACTION = re.compile("[¼-¾⅐-⅟↉]")
_SLASHES = str.maketrans("⁄∕", "//")

# They carry meaning: kana have their voicing marks, and niña is a child where Nina is a name.
_TILDE = "\u0303"
_KEPT_MARKS = frozenset({"\u3099", "\u309a", _TILDE})
_MARKS = ("Mn", "Me")


_LETTERS = stylised() | BY_HAND
# In front of the change of case, for a capital may look like one letter and its small form like another.
_AS_WRITTEN = {code: letter for code, letter in confusables().items() if code not in _LETTERS} | CAPITALS


def fold(text: str) -> str:
    """NFKC, case, look-alike letters, digits of all scripts, marks and unseen signs, each in its plainest form."""
    if text.isascii():
        return text.casefold()
    text = _FRACTION.sub(r" \g<0>", text.translate(_FINAL_SIGMA))
    text = _UNSEEN.sub("", unicodedata.normalize("NFKC", text)).translate(_SLASHES)
    text = text.translate(_AS_WRITTEN).casefold()
    parts = (c for c in unicodedata.normalize("NFD", text) if c in _KEPT_MARKS or unicodedata.category(c) not in _MARKS)
    text = "".join(parts).replace(f"nin{_TILDE}", "ninh").replace(_TILDE, "")
    return unicodedata.normalize("NFC", text).translate(_LETTERS)
