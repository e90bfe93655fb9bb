"""No disguise turns a refused caption into a passing one, and none costs more than linear time."""

from __future__ import annotations

import sys
import unicodedata
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.content.captions import REFUSED, rejection
from worker.content.fold import fold
from worker.content.phrases import make_phrases
from worker.content.rules import check_content, points_at_minor

CAPTIONS = [caption for captions in REFUSED.values() for caption in captions]
UNSEEN = [chr(code) for code in (0x200B, 0x200D, 0x2060, 0xFEFF, 0xAD, 0x300, 0x336, 0x489, 0xFE0F, 0xE0061)]
WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F) if chr(code).isalnum()}
SEPARATORS = [" ", "  ", "-", "_", ".", "·", "*", "/", "|", "~", " - ", "\t", "\n", "\u00a0", "\u3000"]


@given(st.sampled_from(CAPTIONS), st.data())
def test_unseen_signs_hide_nothing(caption: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(1, len(caption)))
        caption = caption[:at] + data.draw(st.sampled_from(UNSEEN)) + caption[at:]
    assert rejection(caption)


@given(st.sampled_from(CAPTIONS), st.sampled_from([str.upper, str.lower, str.title, str.swapcase]), st.booleans())
def test_case_and_width_hide_nothing(caption: str, case: object, wide: bool) -> None:
    assert callable(case)
    changed = case(caption)
    assert rejection(changed.translate(WIDE) if wide else changed)


@given(st.sampled_from(CAPTIONS), st.sampled_from(SEPARATORS))
def test_separators_between_words_hide_nothing(caption: str, separator: str) -> None:
    assert rejection(caption.replace(" ", separator))


@given(st.text())
def test_folding_any_text_ends_and_is_stable(text: str) -> None:
    folded = fold(text)
    points_at_minor(folded)
    assert fold(unicodedata.normalize("NFD", text)) == folded


@given(st.text("0123456789 ,./:-'%½❶⓯ageyrsold()<", max_size=40))
def test_any_text_of_numbers_and_signs_is_read_without_an_error(text: str) -> None:
    points_at_minor(fold(text))


LONG = [
    "1 5 years a-b-c ",
    "c h i l ",
    "十",
    "!",
    "l1",
    "a",
    "1-",
    "1 to 2 to ",
    "12, ",
    "aged only just about ",
    "she is ",
    "年齢は約",
    "a bottle of old wine of ",
    "twenty five ",
    "twenty",
    "y e a r s ",
    "30 and a half and a half ",
    "1/",
    "1:",
    "under the age of ",
    "25, 26 or ",
    "열",
    "и ",
    "x-",
    "_",
    "- ",
    "f/",
    "30 sweet little ",
    "jane ",
]


@pytest.mark.parametrize("piece", LONG)
def test_a_prompt_twice_as_long_takes_about_twice_the_work(piece: str) -> None:
    check_content("a woman, 30 years old é", 1)
    shorter, longer = (_calls(_filled(piece, size)) for size in (1500, 3000))
    assert longer < 2.5 * shorter


def _filled(piece: str, size: int) -> str:
    # A letter beyond ASCII, so that every check runs.
    return (piece * (size // len(piece) + 1))[:size] + "é"


def _calls(prompt: str) -> int:
    """How many functions are called to read the prompt, built-in ones too."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    denied = make_phrases(["jane doe"])
    sys.setprofile(count)
    try:
        points_at_minor(fold(prompt))
        denied.found_in(fold(prompt))
    finally:
        sys.setprofile(None)
    return calls
