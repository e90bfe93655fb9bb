"""The levels, the message, and the operator's deny list."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.content.captions import rejection
from worker.content.fold import fold
from worker.content.phrases import Phrases
from worker.content.rules import check_content, points_at_minor, read_denied
from worker.errors import ErrorCode, RequestRejected


def denied(folder: Path, *lines: str) -> Phrases:
    path = folder / "denied.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_denied(path)


def test_the_message_does_not_repeat_the_prompt() -> None:
    error = rejection("a schoolgirl, zebra")
    assert error is not None
    assert error.code is ErrorCode.CONTENT_REJECTED
    assert not error.code.retryable
    assert "schoolgirl" not in error.message
    assert "zebra" not in error.message


@pytest.mark.parametrize(
    "form",
    [
        "{} years old",
        "{}yo",
        "aged {}",
        "aged just {}",
        "age: {}",
        "she is only {}",
        "{} and a half years old",
        "{} sweet years old",
        "{}½ years old",
        "{} ans",
        "âgée de {}",
        "{} лет",
        "лет {}",
        "ей всего {}",
        "{}歳",
        "{}岁",
        "年龄约{}",
        "{}살",
        "나이는 {}",
        "{}-jährige",
        "im Alter von {}",
        "edad de {}",
        "età di {}",
        "idade de {}",
        "{}enne",
    ],
)
def test_an_age_is_refused_up_to_17_and_not_from_18(form: str) -> None:
    # Years below two are in words of months, and one is a word like any other: she is one.
    refused = [years for years in range(2, 100) if points_at_minor(fold(form.format(years)))]
    assert refused == list(range(2, 18))


SPELLINGS = [
    "jane doe",
    "Jane  DOE",
    "janedoe",
    "JaneDoe",
    "jane-doe",
    "jane_doe",
    "jane.doe",
    "jane, doe",
    "jane\ndoe",
    "j-a-n-e d-o-e",
    "j.a.n.e.d.o.e",
    "j a n e d o e",
    "j_a_n_e_d_o_e",
    "J*A*N*E D*O*E",
    "ja-ne d.oe",
    "j4n3 d03",
    "jaaane doooe",
    "ｊａｎｅ ｄｏｅ",
    "jаnе dое",
    "j\u200bane\u00addoe",
    "#janedoe, portrait",
    "(janedoe:1.3)",
    "janedoe's hat",
    "portrait of jane doe, 4k",
]


@pytest.mark.parametrize("prompt", SPELLINGS)
def test_a_denied_phrase_is_found_in_every_spelling_and_at_every_level(tmp_path: Path, prompt: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        check_content(prompt, 0, denied(tmp_path, "# people", "", "Jane Doe"))
    assert caught.value.code is ErrorCode.CONTENT_REJECTED
    assert "jane" not in caught.value.message.casefold()


@pytest.mark.parametrize(
    "prompt",
    [
        "jane, for example, doe-eyed",
        "jane doesn't know",
        "mary jane doering",
        "ninjanedoering",
        "janedoes",
        "marijane doe s",
        "jan edoe",
        "a doe and jane",
        "j. does",
        "Dijane Doerr",
        "j a n",
    ],
)
def test_letters_of_a_denied_phrase_across_other_words_are_not_that_phrase(tmp_path: Path, prompt: str) -> None:
    check_content(prompt, 0, denied(tmp_path, "jane doe"))


def test_denied_phrases_of_other_scripts_are_found(tmp_path: Path) -> None:
    phrases = denied(tmp_path, "грубое слово", "悪い言葉")
    for prompt in ("Грубое слово", "грубоеслово", "г-р-у-б-о-е слово", "とても悪い言葉です", "悪・い言葉"):
        assert phrases.found_in(fold(prompt)), prompt


def test_an_exception_to_the_deny_list_passes(tmp_path: Path) -> None:
    assert denied(tmp_path, "the rapist").found_in("a therapist on a couch")
    excepted = denied(tmp_path, "the rapist", "!therapist")
    assert not excepted.found_in("a therapist on a couch")
    assert excepted.found_in("the rapist and the therapist")


def test_a_short_denied_phrase_is_not_looked_for_written_together(tmp_path: Path) -> None:
    assert not denied(tmp_path, "a b").found_in("abs, ab")


@pytest.mark.parametrize("text", ["", "# only a remark\n", "fine\n---\n", "!only an exception\n", "fine\n!\n"])
def test_a_deny_list_that_says_nothing_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"phrase|letter"):
        denied(tmp_path, text)
