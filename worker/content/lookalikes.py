"""Letters that look like Latin ones, each with the Latin letter it is read as. Pure, but for reading a table once.

Three sources, the earlier one wins: our own table (by looks where Unicode has no opinion), the names of stylised
letters (small capitals, squared, with strokes), and Unicode's confusables (UTS #39) as `homoglyphs_fork` packs them.
"""

from __future__ import annotations

import re
import unicodedata
from string import ascii_letters

from homoglyphs_fork import Homoglyphs

# Each Cyrillic letter's two cases go to one letter, or Russian words would depend on case.
BY_HAND: dict[int, str] = {
    ord(sign): letter
    for signs, letters in (
        ("авекмнорстухгпіјѕԁԛԝһӏґ", "abekmhopctyxrnijsdqwhlr"),
        ("αβγδεηικμνοπρσςτυχω", "abydenikuvonpsctuxw"),
        ("օսհոցզ", "ouhngq"),
        ("ᏟᎻᎥᏞᎠᎬᎢᏚᎪᏒᏢᏃᎳ", "childetsarpzw"),
        ("ðþßℓꞁ℮", "dpslle"),
    )
    for sign, letter in zip(signs, letters, strict=True)
}
# Greek capitals whose small forms look like another letter than they do, so before the case is folded.
CAPITALS = str.maketrans("ΗΝΥΜΖ", "hnymz")

# Letters of the languages that the rules read: as they are, or as our own table says.
_READ_AS_THEY_ARE = frozenset("абвгдежзийклмнопрстуфхцчшщъыьэюяёґєіїβγδεζηθκλμνξπρστυφχψωςαιο")
# Where letters stand, but for Chinese, Japanese and Korean, where 口, ㅣ and ー are no Latin letters.
_LETTERS = (
    (0x80, 0x1100), (0x1200, 0x2E80), (0xA4D0, 0xA960), (0xAB30, 0xABC0), (0x10000, 0x12000), (0x16F00, 0x16FA0),
)  # fmt: skip

# Alphabets of stylised letters that NFKC leaves as they are; their names end in the letter.
_STYLISED = re.compile(r"(?:LATIN|SYMBOL) (?:SMALL |CAPITAL )?LETTER (?:[A-Z]+ )*?([A-Z])(?: WITH .+)?$")
_STYLISED_RANGES = (
    (0x80, 0x2B0), (0x1D00, 0x1DC0), (0x1E00, 0x1F00), (0x2C60, 0x2C80), (0xA720, 0xA800), (0x1F110, 0x1F200),
)  # fmt: skip
_DIGITS = (0x660, 0xAC00)
_NUMBER_MAX = 20


def stylised() -> dict[int, str]:
    """Letters by their names, and the digits and small numbers of all scripts (`❶`, `⓯`)."""
    table = {}
    for first, end in _STYLISED_RANGES:
        for code in range(first, end):
            found = _STYLISED.search(unicodedata.name(chr(code), ""))
            if found:
                table[code] = found[1].lower()
    for code in range(*_DIGITS):
        number = unicodedata.numeric(chr(code), -1)
        if unicodedata.category(chr(code)) in ("Nd", "No") and number == int(number) and 0 <= number <= _NUMBER_MAX:
            table[code] = str(int(number))
    return table


def confusables() -> dict[int, str]:
    """Every letter that UTS #39 takes for a Latin one, with that in lower case; languages of the rules excepted."""
    others = {chr(code) for first, end in _LETTERS for code in range(first, end) if _is_candidate(chr(code))}
    table: dict[str, set[str]] = Homoglyphs.get_table(others | set(ascii_letters))
    found = {}
    for sign in others & table.keys():
        latin = {seen.lower() for seen in table[sign] if seen in ascii_letters}
        if latin:
            # Of I and l, which look alike, the one of the same case.
            found[ord(sign)] = "i" if latin == {"i", "l"} and sign.isupper() else max(latin)
    return found


def _is_candidate(sign: str) -> bool:
    return unicodedata.category(sign)[0] in "LN" and sign.lower() not in _READ_AS_THEY_ARE
