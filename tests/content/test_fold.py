"""Look-alike letters, digits of all scripts and fractions as a reader sees them."""

from __future__ import annotations

import unicodedata
from string import ascii_letters

import pytest
from homoglyphs_fork import Homoglyphs

from worker.content.fold import fold
from worker.content.lookalikes import BY_HAND, confusables, stylised


def test_every_letter_of_the_tables_is_read_as_its_latin_one() -> None:
    # Where NFKC has a form of its own for the sign, that is read. ß is two letters.
    table = {
        chr(code): letter
        for code, letter in (stylised() | BY_HAND).items()
        if unicodedata.normalize("NFKC", chr(code)) == chr(code) and chr(code) not in "ßẞ"
    }
    assert len(table) > 900
    assert {sign: letter for sign, letter in table.items() if fold(sign) != letter} == {}


def test_confusables_of_unicode_are_read_as_the_letters_they_look_like() -> None:
    # Digits of another script are that digit, whatever letter they look like, and what NFKC says comes first.
    ours = stylised() | BY_HAND
    table = {
        chr(code): letter
        for code, letter in confusables().items()
        if unicodedata.normalize("NFKC", chr(code)) == chr(code) and code not in ours
    }
    assert len(table) > 200
    assert {sign: letter for sign, letter in table.items() if fold(sign) != letter} == {}


def test_the_hand_made_table_keeps_what_unicode_has_no_opinion_on() -> None:
    """UTS #39 covers 55 of its 67 letters; these are the others, which look alike enough to a person."""
    signs = {chr(code) for code in BY_HAND}
    table = Homoglyphs.get_table(
        signs | {sign.upper() for sign in signs if len(sign.upper()) == 1} | set(ascii_letters)
    )
    missing = {
        sign
        for sign in signs
        if BY_HAND[ord(sign)] not in {seen.lower() for case in (sign, sign.upper()) for seen in table.get(case, ())}
    }
    assert missing == set("пґδημπσςωðßꞁ")


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("15½", "15 1/2"),
        ("15¾", "15 3/4"),
        ("❶❺", "15"),
        ("⓯", "15"),
        ("⑮", "15"),
        ("１５", "15"),
        ("١٥", "15"),
        ("ϲhild", "child"),
        ("ςhild", "child"),
        ("Ⲥhild", "child"),
        ("ꓚhild", "child"),
        ("ребёнок", "peбehok"),
        ("子供 ロリ 口 〇", "子供 ロリ 口 〇"),
        ("어린이", "어린이"),
    ],
)
def test_folding(text: str, folded: str) -> None:
    assert fold(text) == folded
