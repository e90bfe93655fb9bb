"""Prompts that are rejected before the GPU, in ten languages and many disguises, and prompts that are not."""

from __future__ import annotations

import tomllib
import unicodedata
from pathlib import Path
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.content.fold import fold
from worker.content.phrases import make_phrases
from worker.content.rules import check_content, points_at_minor, read_denied
from worker.errors import ErrorCode, RequestRejected

TABLE = tomllib.loads((Path(__file__).parent / "phrases.toml").read_text())


def phrases(kind: str) -> list[tuple[str, str]]:
    return [(language, phrase) for language, found in TABLE[kind].items() for phrase in found]


def rejection(prompt: str, nsfw_level: int = 1) -> RequestRejected | None:
    try:
        check_content(prompt, nsfw_level)
    except RequestRejected as error:
        return error
    return None


@pytest.mark.parametrize(("language", "phrase"), phrases("rejected"))
def test_what_points_at_a_minor_is_rejected(language: str, phrase: str) -> None:
    assert rejection(phrase), language
    assert rejection(f"masterpiece, a nude portrait, {phrase}, on a bed, soft light", 100), language


@pytest.mark.parametrize(("language", "phrase"), phrases("accepted"))
def test_what_does_not_point_at_a_minor_passes(language: str, phrase: str) -> None:
    assert rejection(phrase) is None, language
    assert rejection(f"masterpiece, a nude portrait, {phrase}, on a bed, soft light", 100) is None, language


@pytest.mark.parametrize(("language", "phrase"), phrases("missed"))
def test_what_the_docs_say_is_missed_is_missed(language: str, phrase: str) -> None:
    assert rejection(phrase, 100) is None, language


@pytest.mark.parametrize(("language", "phrase"), phrases("hit_wrongly"))
def test_what_the_docs_say_is_hit_wrongly_is_hit(language: str, phrase: str) -> None:
    assert rejection(phrase), language
    assert rejection(phrase, 0) is None


def test_without_an_nsfw_level_none_is_rejected() -> None:
    assert [phrase for _, phrase in phrases("rejected") if rejection(phrase, 0)] == []


def test_the_message_does_not_repeat_the_prompt() -> None:
    error = rejection("a schoolgirl, zebra")
    assert error is not None
    assert error.code is ErrorCode.CONTENT_REJECTED
    assert not error.code.retryable
    assert "schoolgirl" not in error.message
    assert "zebra" not in error.message


@pytest.mark.parametrize("years", range(100))
@pytest.mark.parametrize(
    "form", ["{} years old", "{}yo", "aged {}", "{} ans", "{} лет", "{}歳", "{}岁", "{}살", "{}-jährige"]
)
def test_an_age_is_refused_up_to_17_and_not_from_18(years: int, form: str) -> None:
    assert points_at_minor(fold(form.format(years))) == (years < 18)


WORDS = [phrase for language in ("en", "de", "fr", "ru") for phrase in TABLE["rejected"][language]]
MARKS = [chr(code) for code in (0x200B, 0x200D, 0x2060, 0xFEFF, 0xAD, 0x300, 0x336, 0x489, 0xFE0F, 0xE0061)]


@given(st.sampled_from(WORDS), st.data())
def test_case_and_unseen_signs_hide_nothing(phrase: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(0, 8))):
        at = data.draw(st.integers(1, len(phrase)))
        phrase = phrase[:at] + data.draw(st.sampled_from(MARKS)) + phrase[at:]
    assert rejection(data.draw(st.sampled_from([phrase, phrase.upper(), phrase.title()])))


@given(st.text())
def test_folding_any_text_ends_and_is_stable(text: str) -> None:
    folded = fold(text)
    points_at_minor(folded)
    assert fold(unicodedata.normalize("NFD", text)) == folded


def test_a_long_prompt_takes_milliseconds() -> None:
    for prompt in (
        "1 5 years a-b-c " * 500,
        "c h i l " * 1000,
        "十" * 8000,
        "!" * 8000,
        "l1" * 4000,
        "a" * 8000,
        "1-" * 4000,
    ):
        before = perf_counter()
        check_content(prompt + "é", 0, make_phrases(["nothing of it"]))
        points_at_minor(fold(prompt + "é"))
        assert perf_counter() - before < 1.0, prompt[:20]


def test_a_deny_list_counts_at_every_level(tmp_path: Path) -> None:
    path = tmp_path / "denied.txt"
    path.write_text("# people\nJane Example\n\nгрубое слово\n悪い言葉\n")
    denied = read_denied(path)
    for prompt in (
        "portrait of jane  EXAMPLE",
        "j4ne-example",
        "Грубое слово",
        "とても悪い言葉です",
        "jane_example, nude",
    ):
        with pytest.raises(RequestRejected) as caught:
            check_content(prompt, 0, denied)
        assert caught.value.code is ErrorCode.CONTENT_REJECTED
        assert "jane" not in caught.value.message.casefold()
    check_content("jane, for example", 0, denied)


@pytest.mark.parametrize("text", ["", "# only a remark\n", "fine\n---\n"])
def test_a_deny_list_that_says_nothing_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "denied.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"phrase|letter"):
        read_denied(path)
