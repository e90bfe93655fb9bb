"""The grammar of weights, and that rules about words see what is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.content.rules import read_denied
from worker.errors import ErrorCode, RequestRejected
from worker.events.types import GenerationRequest
from worker.intake.admit import AdmissionRules, Arrival, admit
from worker.job import Job, Lane, Origin
from worker.prompt_syntax import PromptSyntax, parse, plain_text
from worker.settings import Settings

A1111 = PromptSyntax.A1111


def read(text: str) -> list[tuple[str, float]]:
    """The runs of a prompt without `BREAK`, with weights of four digits."""
    [part] = parse(text, A1111)
    ends = [first for first, _ in part.weights[1:]] + [len(part.text)]
    return [(part.text[first:end], round(weight, 4)) for (first, weight), end in zip(part.weights, ends, strict=True)]


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("a cat", [("a cat", 1)]),
        ("a (cat) on", [("a ", 1), ("cat", 1.1), (" on", 1)]),
        ("((cat))", [("cat", 1.21)]),
        ("[cat]", [("cat", 0.9091)]),
        ("[[cat]]", [("cat", 0.8264)]),
        ("([cat])", [("cat", 1)]),
        ("(cat:1.3)", [("cat", 1.3)]),
        ("(cat : 1.3 )", [("cat ", 1.3)]),
        ("(cat:.5)", [("cat", 0.5)]),
        ("(cat:0)", [("cat", 0)]),
        ("(cat:2.)", [("cat", 2)]),
        ("(a (b:2) c:1.5)", [("a ", 1.5), ("b", 3), (" c", 1.5)]),
        ("(a [b] c:2)", [("a ", 2), ("b", 1.8182), (" c", 2)]),
        # Brackets that are not closed count to the end, and one that closes nothing is text.
        ("a (b", [("a ", 1), ("b", 1.1)]),
        ("a [b", [("a ", 1), ("b", 0.9091)]),
        ("a) b]", [("a) b]", 1)]),
        ("a:1.3) b", [("a:1.3) b", 1)]),
        ("[a:1.3) b", [("a:1.3) b", 0.9091)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1), (" c", 0.9091)]),
        # Escapes.
        (r"\(cat\)", [("(cat)", 1)]),
        (r"\[cat\]", [("[cat]", 1)]),
        (r"(a \(b\):1.2)", [("a (b)", 1.2)]),
        (r"a\\b", [(r"a\b", 1)]),
        (r"a\b", [("ab", 1)]),
        ("a\\", [("a", 1)]),
        (r"\BREAK", [("BREAK", 1)]),
        # No weights.
        ("a: b, 16:9", [("a: b, 16:9", 1)]),
        ("(16:9)", [("16", 9)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a:1e3)", [("a:1e3", 1.1)]),
        ("(a:١)", [("a:١", 1.1)]),
        ("", [("", 1)]),
        ("()", [("", 1)]),
    ],
)
def test_weights(text: str, runs: list[tuple[str, float]]) -> None:
    assert read(text) == runs


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a BREAK b", ["a", "b"]),
        ("a\nBREAK\nb", ["a", "b"]),
        ("a (b BREAK c:1.3) d", ["a b", "c d"]),
        ("aBREAKb BREAKS", ["aBREAKb BREAKS"]),
        ("break a", ["break a"]),
        ("BREAK a BREAK BREAK b BREAK", ["a", "b"]),
        ("BREAK", [""]),
    ],
)
def test_breaks(text: str, parts: list[str]) -> None:
    assert [part.text for part in parse(text, A1111)] == parts


def test_a_break_within_brackets_keeps_their_weight() -> None:
    first, second = parse("(a BREAK b:1.3) c", A1111)
    assert (first.weight_at(0), second.weight_at(0), second.weight_at(2)) == (1.3, 1.3, 1.0)


@pytest.mark.parametrize(
    "text", ["(a:10.01)", "(a:-0.1)", "(a:-1)", "(a:99999999999999)", "(" * 30 + "a", f"(a:{'9' * 4000})"]
)
def test_a_weight_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="weights must be from 0 to 10"):
        parse(text, A1111)


@given(st.text(st.sampled_from("()[]:\\ .019-aBREK\n"), max_size=60) | st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    assert parse(text, PromptSyntax.LITERAL)[0].text == text
    try:
        parts = parse(text, A1111)
    except ValueError:
        return
    for part in parts:
        firsts = [first for first, _ in part.weights]
        assert firsts[0] == 0
        assert firsts == sorted(set(firsts))
        # Nothing but syntax disappears.
        assert set(part.text) <= set(text)


@pytest.mark.parametrize(
    "text", ["[" * 4000 + "]" * 4000, "[(" * 2000 + "])" * 2000, "[]" * 4000 + ":" * 4000, ": " * 4000, "\\" * 8000]
)
def test_long_hostile_text_takes_linear_time(text: str) -> None:
    # With quadratic time these would take minutes; the suite's timeout is the bound.
    plain_text(text * 20, A1111)


# In admission


def admitted(prompt: str, negative_prompt: str | None = None, nsfw_level: int = 0, **settings: object) -> Job:
    request = GenerationRequest(
        job_id="j", girl_id="g", user_id=1, prompt=prompt, negative_prompt=negative_prompt, nsfw_level=nsfw_level
    )
    made = Settings(_env_file=None, **({"prompt_syntax": "a1111"} | settings))  # type: ignore[arg-type]
    path = made.content_deny_path
    rules = AdmissionRules(made, denied=None if path is None else read_denied(path))
    return admit(request, Arrival(Origin("t", 0, 0, 0), Lane.NORMAL, 0.0, {}), rules, 0.0)


HIDDEN_CHILD = [
    "(ch:1.0)(ild:1)", "ch(ild)", "(ch)ild", "[ch][ild]", r"ch\ild", "ch(il:0.5)d", "((ch:1.2)(ild:1.2):1.1)",
    "c(h[i(l)])d", "ch()ild", "a (chi)(ld:1.3) BREAK forest", "(c:1)(h:1)(i:1)(l:1)(d:1)",
    "she is (12:1.3) years old", "she is 1(2:1.3) years old", "(school:1.2)(girl:1.1)",
]  # fmt: skip


@pytest.mark.parametrize("prompt", HIDDEN_CHILD)
def test_syntax_does_not_hide_a_minor(prompt: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        admitted(prompt, nsfw_level=1)
    assert caught.value.code is ErrorCode.CONTENT_REJECTED
    assert admitted(prompt).prompt == prompt, "events hold the prompt as it was sent"


@pytest.mark.parametrize(
    "prompt",
    [
        "(jane:1.0) (doe:1)",
        "ja(ne) doe",
        "(jane BREAK doe:1.1)",
        r"ja\ne doe",
        "[jane]\nBREAK\n(doe)",
        "(ja:1)(ne:1) doe",
    ],
)
def test_syntax_does_not_hide_a_phrase_of_the_deny_list(prompt: str, tmp_path: Path) -> None:
    (tmp_path / "denied.txt").write_text("jane doe")
    with pytest.raises(RequestRejected) as caught:
        admitted(prompt, content_deny_path=tmp_path / "denied.txt")
    assert caught.value.code is ErrorCode.CONTENT_REJECTED


def test_a_faint_word_makes_no_other_word_harmless() -> None:
    assert admitted("medical school student aged 24", nsfw_level=1)
    assert admitted("(medical school student:1.2) aged 24", nsfw_level=1)
    for faint in (
        "(medical:0) school student (aged 24:0)",
        "(medical:0.5) school student",
        "[[[[[[medical]]]]]] school student",
    ):
        with pytest.raises(RequestRejected):
            admitted(faint, nsfw_level=1)
    with pytest.raises(RequestRejected):
        admitted("a (schoolgirl:0) at a window", nsfw_level=1)


@pytest.mark.parametrize("prompt", ["a woman (smiling:1.2), portrait", "a (woman:1.15) aged 25", "16:9 (city:1.12)"])
def test_weights_are_no_ages(prompt: str) -> None:
    assert admitted(prompt, nsfw_level=1).prompt_syntax is A1111


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_a_weight_out_of_bounds_names_its_prompt(name: str) -> None:
    with pytest.raises(RequestRejected, match=rf"^{name} has text with the weight -1;") as caught:
        admitted("(adult:-1)" if name == "prompt" else "a", "(adult:-1)" if name == "negative_prompt" else None)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_by_default_brackets_are_text() -> None:
    job = admitted("(adult:-1) BREAK [b", prompt_syntax="literal")
    assert job.prompt_syntax is PromptSyntax.LITERAL
    assert Settings(_env_file=None).prompt_syntax is PromptSyntax.LITERAL
