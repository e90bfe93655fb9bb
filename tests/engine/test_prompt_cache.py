"""Positive and negative prompts are encoded and kept apart, within a bound in bytes, and with the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from devtools.bench.equality.draw import WatchedModel, load_toy
from tests.engine.scenario import make_job
from worker.engine.cost import Stage
from worker.engine.prompt import EncodedText, encode
from worker.engine.prompt_cache import PromptCache
from worker.job import Job
from worker.prompt_syntax import PromptSyntax


@pytest.fixture(scope="module")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> WatchedModel:
    return load_toy(tmp_path_factory.mktemp("prompt-cache"))


@pytest.fixture
def model(toy_model: WatchedModel) -> WatchedModel:
    toy_model.forget_prompts()
    return toy_model


class Encodings:
    """How often the base's first text encoder has run."""

    def __init__(self, model: WatchedModel) -> None:
        self.count = 0
        self.handle = model.base.text_encoder.register_forward_hook(self._seen)

    def _seen(self, *_: object) -> None:
        self.count += 1

    def of(self, model: WatchedModel, job: Job) -> int:
        before = self.count
        model.condition(job, Stage.BASE)
        return self.count - before


@pytest.fixture
def encodings(model: WatchedModel) -> Iterator[Encodings]:
    counted = Encodings(model)
    yield counted
    counted.handle.remove()


def job_of(prompt: str, negative: str | None, guidance: float = 5.0) -> Job:
    return replace(make_job("j", prompt=prompt, guidance=guidance), negative_prompt=negative)


def test_a_prompt_is_encoded_once_whichever_negative_stands_beside_it(
    model: WatchedModel, encodings: Encodings
) -> None:
    assert encodings.of(model, job_of("a cat", "blurry")) == 2
    assert encodings.of(model, job_of("a dog", "blurry")) == 1
    assert encodings.of(model, job_of("a cat", "dark")) == 1
    assert encodings.of(model, job_of("a dog", "dark")) == 0
    assert encodings.of(model, job_of("a cat", None)) == 0, "zeros stand for an absent negative prompt"
    assert encodings.of(model, job_of("a cat", "never seen", guidance=1.0)) == 0


def test_a_text_is_the_same_on_either_side(model: WatchedModel, encodings: Encodings) -> None:
    assert encodings.of(model, job_of("a cat", "a cat")) == 1
    assert encodings.of(model, job_of("blurry", "a cat")) == 1


def test_a_longer_partner_means_another_encoding(model: WatchedModel, encodings: Encodings) -> None:
    assert encodings.of(model, job_of("a cat", "x" * 80)) == 4
    assert encodings.of(model, job_of("a cat", "blurry")) == 2


def test_the_syntax_is_part_of_the_key(model: WatchedModel, encodings: Encodings) -> None:
    literal = job_of("a (cat:1.5)", None)
    assert encodings.of(model, literal) == 1
    assert encodings.of(model, replace(literal, prompt_syntax=PromptSyntax.A1111)) == 1


@pytest.mark.parametrize("prompt", ["a cat", "a (cat:1.5)", "x" * 80])
@pytest.mark.parametrize("negative", [None, "", "blurry", "a (dog:0.5)", "x" * 160])
def test_cached_and_encoded_together_are_the_same_bits(model: WatchedModel, prompt: str, negative: str | None) -> None:
    job = replace(job_of(prompt, negative), prompt_syntax=PromptSyntax.A1111)
    model.condition(replace(job, negative_prompt="other"), Stage.BASE)
    condition = model.condition(job, Stage.BASE)
    together = encode(model.base, prompt, negative, guided=True, device=torch.device("cpu"), syntax=PromptSyntax.A1111)
    kept = (condition.prompt, condition.negative_prompt, condition.pooled, condition.negative_pooled)
    for one, other in zip(kept, together, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


class Kept:
    """A cache of texts whose size is their length in KiB."""

    def __init__(self, kib: int) -> None:
        self.encoded: list[str] = []
        self.entered = 0
        self.cache = PromptCache(kib * 1024)

    def of(self, *texts: str) -> None:
        found = self.cache.of("key", texts, self._encode, self._within)
        assert [len(pooled) for _, pooled in found] == [1024 * len(text) for text in texts]

    def _encode(self, text: str) -> EncodedText:
        self.encoded.append(text)
        return torch.empty(0), torch.zeros(1024 * len(text), dtype=torch.uint8)

    @contextmanager
    def _within(self) -> Iterator[None]:
        self.entered += 1
        yield


def test_the_least_recently_used_prompts_go_first() -> None:
    kept = Kept(4)
    kept.of("aa", "bb")
    kept.of("aa")
    kept.of("cc")
    kept.of("aa")
    kept.of("bb")
    assert kept.encoded == ["aa", "bb", "cc", "bb"]


def test_a_prompt_above_the_bound_is_encoded_every_time_and_displaces_nothing() -> None:
    kept = Kept(4)
    kept.of("a")
    kept.of("too long")
    kept.of("too long")
    kept.of("a")
    assert kept.encoded == ["a", "too long", "too long"]


def test_nothing_is_entered_where_nothing_is_encoded() -> None:
    kept = Kept(4)
    kept.of("a", "b")
    kept.of("b", "a")
    kept.of("a", "a")
    assert (kept.entered, kept.encoded) == (1, ["a", "b"])


def test_cleared_means_encoded_again() -> None:
    kept = Kept(4)
    kept.of("a")
    kept.cache.clear()
    kept.of("a")
    assert kept.encoded == ["a", "a"]
