"""Text as a reader would see it: one spelling for every disguise of a letter. Pure.

The words of the rules are folded by the same function, so a mapping need not be right, only the same on both sides.
"""

from __future__ import annotations

import re
import unicodedata

# Written, but not seen: soft hyphen, joiners and other zero-width signs, fillers, variation selectors, tags.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)

# Greek capitals whose small forms look like another letter than they do, so before the case is folded.
_CAPITALS = str.maketrans("ΗΝΥΜ", "hnym")

# By looks, not by sound. Each Cyrillic letter's two cases go to one letter, or Russian words would depend on case.
_LOOKALIKES = str.maketrans(
    "авекмнорстухгпіјѕԁԛԝһӏґ" "αβγδεηικμνοπρσςτυχω" "օսհոցզ" "ᏟᎻᎥᏞᎠᎬᎢᏚᎪᏒᏢᏃᎳ" "ðþßℓꞁ",
    "abekmhopctyxrnijsdqwhlr" "abydenikuvonpsctuxw" "ouhngq" "childetsarpzw" "dpsll",
)  # fmt: skip

# Alphabets of stylised letters that NFKC leaves as they are; their names end in the letter.
_STYLISED = re.compile(r"(?:LATIN|SYMBOL) (?:SMALL |CAPITAL )?LETTER (?:[A-Z]+ )*?([A-Z])(?: WITH .+)?$")
_STYLISED_RANGES = (
    (0x80, 0x2B0), (0x1D00, 0x1DC0), (0x1E00, 0x1F00), (0x2C60, 0x2C80), (0xA720, 0xA800), (0x1F110, 0x1F200),
)  # fmt: skip
_DIGITS = (0x660, 0xAC00)

# They carry meaning: kana have their voicing marks, and niña is a child where Nina is a name.
_KEPT_MARKS = frozenset("\u3099\u309a")


def _stylised() -> dict[int, str]:
    table = {}
    for first, end in _STYLISED_RANGES:
        for code in range(first, end):
            found = _STYLISED.search(unicodedata.name(chr(code), ""))
            if found:
                table[code] = found[1].lower()
    for code in range(*_DIGITS):
        digit = unicodedata.decimal(chr(code), None)
        if digit is not None:
            table[code] = str(digit)
    return table


_TABLE = _stylised() | _LOOKALIKES


def fold(text: str) -> str:
    """NFKC, case, look-alike letters, digits of all scripts, marks and unseen signs, each in its plainest form."""
    if text.isascii():
        return text.casefold()
    text = _UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    text = text.translate(_CAPITALS).casefold()
    text = unicodedata.normalize("NFC", text).replace("niñ", "ninh")
    parts = unicodedata.normalize("NFD", text)
    text = "".join(c for c in parts if c in _KEPT_MARKS or unicodedata.category(c) not in ("Mn", "Me"))
    return unicodedata.normalize("NFC", text).translate(_TABLE)
