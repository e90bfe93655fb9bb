"""Weights and BREAK: what diffusers gives for the plain words, times the weights, in both encoders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from devtools.bench.equality.compare import differing_latents, differing_pixels
from devtools.bench.equality.draw import WatchedModel, alone, draw, load_toy
from tests.engine.scenario import make_job
from tests.engine.test_prompt import by_diffusers, chunk_of
from worker.engine.prompt import chunks_needed, encode
from worker.errors import RequestRejected
from worker.job import Job
from worker.prompt_syntax import PromptSyntax

CPU = torch.device("cpu")
A1111 = PromptSyntax.A1111


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WatchedModel:
    return load_toy(tmp_path_factory.mktemp("weights"))


@pytest.fixture(params=["base", "refiner"])
def pipe(request: pytest.FixtureRequest, model: WatchedModel) -> Any:
    return getattr(model, request.param)


def positive(pipe: Any, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    encoded = encode(pipe, prompt, None, guided=False, device=CPU, syntax=A1111)
    return encoded[0], encoded[2]


def scaled(hidden: torch.Tensor, weights: dict[int, float]) -> torch.Tensor:
    """`hidden` with the states of tokens, counted from 0 behind the start token, times their weights."""
    hidden = hidden.clone()
    for token, weight in weights.items():
        hidden[:, token + 1] *= weight
    return hidden


# The toy's tokenizer gives each letter a token.
@pytest.mark.parametrize(
    ("prompt", "plain", "weights"),
    [
        ("a (cat:1.3) sat", "a cat sat", dict.fromkeys((1, 2, 3), 1.3)),
        ("(a) cat", "a cat", {0: 1.1}),
        ("a [cat]", "a cat", dict.fromkeys((1, 2, 3), 1 / 1.1)),
        ("c(a:0.5)t", "cat", {1: 0.5}),
        ("(über:2) Wolken", "über Wolken", dict.fromkeys(range(5), 2.0)),
        (r"(\(:2) cat", "( cat", {0: 2.0}),
        ("  (a:1.5)\n cat", "a cat", {0: 1.5}),
    ],
)
def test_a_weight_multiplies_the_states_of_its_tokens(
    pipe: Any, prompt: str, plain: str, weights: dict[int, float]
) -> None:
    hidden, pooled = positive(pipe, prompt)
    expected, expected_pooled = by_diffusers(pipe, [plain])
    assert torch.equal(hidden, scaled(expected, weights))
    assert not torch.equal(hidden, expected)
    assert torch.equal(pooled, expected_pooled)


def test_weights_reach_every_chunk_of_a_long_prompt(pipe: Any) -> None:
    hidden, pooled = positive(pipe, f"{chunk_of(0)} ({chunk_of(1)}:1.3) x")
    first, second, third = (by_diffusers(pipe, [text])[0] for text in (chunk_of(0), chunk_of(1), "x"))
    assert torch.equal(hidden, torch.cat([first, scaled(second, dict.fromkeys(range(75), 1.3)), third], dim=1))
    assert torch.equal(pooled, by_diffusers(pipe, [chunk_of(0)])[1])


def test_break_begins_a_chunk(pipe: Any) -> None:
    hidden, pooled = positive(pipe, "a cat BREAK (a hat:1.2)")
    first, second = by_diffusers(pipe, ["a cat"])[0], by_diffusers(pipe, ["a hat"])[0]
    assert torch.equal(hidden, torch.cat([first, scaled(second, dict.fromkeys(range(4), 1.2))], dim=1))
    assert torch.equal(pooled, by_diffusers(pipe, ["a cat"])[1])


@pytest.mark.parametrize("prompt", ["a cat", "(a cat:1.0)", "([a cat])"])
def test_without_weights_it_is_diffusers_own(pipe: Any, prompt: str) -> None:
    hidden, pooled = positive(pipe, prompt)
    expected, expected_pooled = by_diffusers(pipe, ["a cat"])
    assert torch.equal(hidden, expected)
    assert torch.equal(pooled, expected_pooled)


def test_the_negative_prompt_is_weighted_too_and_an_absent_one_stays_zeros(model: WatchedModel) -> None:
    _, negative, _, pooled = encode(model.base, "a cat", "(fog:1.4)", guided=True, device=CPU, syntax=A1111)
    expected, expected_pooled = by_diffusers(model.base, ["fog"])
    assert negative is not None
    assert pooled is not None
    assert torch.equal(negative, scaled(expected, dict.fromkeys(range(3), 1.4)))
    assert torch.equal(pooled, expected_pooled)
    _, absent, _, _ = encode(model.base, "(a:1.3) cat", None, guided=True, device=CPU, syntax=A1111)
    assert absent is not None
    assert not absent.any()
    assert absent.shape[1] == 77


def test_literally_brackets_are_text(model: WatchedModel) -> None:
    prompt = "(a cat:1.3) BREAK [b]"
    literal = encode(model.base, prompt, None, guided=False, device=CPU)[0]
    assert torch.equal(literal, by_diffusers(model.base, [prompt])[0])


def test_breaks_count_as_chunks(model: WatchedModel) -> None:
    assert chunks_needed(model.base, "a BREAK b BREAK c", None, A1111) == 3
    assert chunks_needed(model.base, "a", "a BREAK b", A1111) == 2
    assert chunks_needed(model.base, "a BREAK b", None) == 1
    with pytest.raises(RequestRejected, match=r"^prompt has 9 tokens, which make 9 chunks; at most 8"):
        chunks_needed(model.base, " BREAK ".join("abcdefghi"), None, A1111)


def _jobs() -> list[Job]:
    prompts = ["a cat", "a (cat:1.3)", "a (cat:1.4)", "a cat BREAK a hat", "(a:0.5) cat"]
    jobs = [make_job(f"job-{n}", prompt=text, guidance=5.0, refined=n % 2 == 0) for n, text in enumerate(prompts)]
    return [replace(job, prompt_syntax=A1111, negative_prompt="(fog:1.2)") for job in jobs]


def test_no_bit_depends_on_company_and_every_weight_on_the_picture(model: WatchedModel) -> None:
    lonely = alone(model, _jobs(), deterministic=True)
    assert len(lonely.drawn) == len(_jobs())
    assert differing_latents(lonely, draw(model, _jobs(), deterministic=True)) == 0
    assert not any(
        torch.equal(one.latents, other.latents)
        for name, one in lonely.drawn.items()
        for another, other in lonely.drawn.items()
        if name < another
    )


def test_the_same_text_in_both_syntaxes_is_not_mixed_up_by_the_cache(model: WatchedModel) -> None:
    job = make_job("job", prompt="a (cat:1.3)")
    literal, weighted = (
        alone(model, [replace(job, prompt_syntax=syntax)], deterministic=True) for syntax in PromptSyntax
    )
    assert differing_pixels(literal, weighted) > 0
    model.forget_prompts()
    again = alone(model, [replace(job, prompt_syntax=A1111)], deterministic=True)
    assert differing_latents(weighted, again) == 0


def test_half_precision_stays(tmp_path: Path) -> None:
    half = load_toy(tmp_path, torch.bfloat16)
    hidden, pooled = positive(half.base, "a (cat:1.3)")
    assert (hidden.dtype, pooled.dtype) == (torch.bfloat16, torch.bfloat16)
