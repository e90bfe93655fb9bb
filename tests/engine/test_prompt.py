"""Long prompts: nothing is cut, short prompts do not change, and other rows of the batch change no bit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from devtools.bench.equality.compare import differing_latents, in_company
from devtools.bench.equality.draw import WatchedModel, alone, draw, load_toy
from devtools.bench.equality.jobs import LORAS, random_jobs
from tests.engine.scenario import make_job, stage
from worker.engine.cost import Group
from worker.engine.prompt import MAX_CHUNKS, chunks_needed, encode
from worker.engine.samplers import make_scheduler
from worker.errors import ErrorCode, RequestRejected
from worker.job import Job

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")

CPU = torch.device("cpu")
# The toy's tokenizer gives each letter a token, so 15 words of five letters are one chunk.
WORDS = ("fairy", "ocean", "night", "cloud", "stone", "river", "light")


def chunk_of(seed: int) -> str:
    """75 tokens that end with a word, so that they are tokenized the same in a longer text."""
    return " ".join(random.Random(seed).choices(WORDS, k=15))


def text_of(chunks: int, seed: int = 0) -> str:
    return " ".join(chunk_of(seed + i) for i in range(chunks))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WatchedModel:
    return load_toy(tmp_path_factory.mktemp("prompts"))


@pytest.fixture(params=["base", "refiner"])
def pipe(request: pytest.FixtureRequest, model: WatchedModel) -> Any:
    return getattr(model, request.param)


def by_diffusers(pipe: Any, parts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The reference: diffusers' own encoding of each part."""
    encoded = [pipe.encode_prompt(part, device=CPU, do_classifier_free_guidance=False) for part in parts]
    return torch.cat([one[0] for one in encoded], dim=1), encoded[0][2]


@pytest.mark.parametrize("negative", [None, "", "blurry"])
@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("prompt", ["", "a lighthouse", chunk_of(0)])
def test_up_to_77_tokens_it_is_diffusers_own(pipe: Any, prompt: str, guided: bool, negative: str | None) -> None:
    ours = encode(pipe, prompt, negative, guided=guided, device=CPU)
    theirs = pipe.encode_prompt(prompt, device=CPU, do_classifier_free_guidance=guided, negative_prompt=negative)
    for one, other in zip(ours, theirs, strict=True):
        assert other is None if one is None else torch.equal(one, other)


def test_a_long_prompt_is_its_chunks_one_after_the_other(pipe: Any) -> None:
    prompt, negative, pooled, negative_pooled = encode(pipe, text_of(3), chunk_of(9), guided=True, device=CPU)
    expected, first = by_diffusers(pipe, [chunk_of(0), chunk_of(1), chunk_of(2)])
    assert torch.equal(prompt, expected)
    assert torch.equal(pooled, first)
    expected, first = by_diffusers(pipe, [chunk_of(9), "", ""])
    assert negative is not None
    assert negative_pooled is not None
    assert torch.equal(negative, expected)
    assert torch.equal(negative_pooled, first)


def test_a_long_negative_prompt_lengthens_the_positive(pipe: Any) -> None:
    prompt, negative, _, _ = encode(pipe, "a cat", text_of(2), guided=True, device=CPU)
    assert torch.equal(prompt, by_diffusers(pipe, ["a cat", ""])[0])
    assert negative is not None
    assert torch.equal(negative, by_diffusers(pipe, [chunk_of(0), chunk_of(1)])[0])
    assert encode(pipe, "a cat", text_of(2), guided=False, device=CPU)[0].shape[1] == 77


def test_an_absent_negative_prompt_is_zeros_where_the_model_says_so(model: WatchedModel) -> None:
    _, negative, _, pooled = encode(model.base, text_of(2), None, guided=True, device=CPU)
    assert negative is not None
    assert pooled is not None
    assert negative.shape[1] == 154
    assert not negative.any()
    assert not pooled.any()
    assert not model.refiner.config.force_zeros_for_empty_prompt
    _, negative, _, _ = encode(model.refiner, text_of(2), None, guided=True, device=CPU)
    assert negative is not None
    assert torch.equal(negative, by_diffusers(model.refiner, ["", ""])[0])


@pytest.mark.parametrize(("tokens", "chunks"), [(0, 1), (1, 1), (75, 1), (76, 2), (150, 2), (151, 3), (600, 8)])
def test_chunks_are_of_75_tokens(model: WatchedModel, tokens: int, chunks: int) -> None:
    assert chunks_needed(model.base, "x" * tokens, None) == chunks
    assert chunks_needed(model.base, "y", "x" * tokens) == chunks


@pytest.mark.parametrize("at", [0, 40, 74, 75, 76, 149, 150, 220])
def test_every_token_counts(model: WatchedModel, at: int) -> None:
    text = "x" * 221
    before = encode(model.base, text, None, guided=False, device=CPU)[0]
    after = encode(model.base, text[:at] + "q" + text[at + 1 :], None, guided=False, device=CPU)[0]
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_too_many_chunks_are_refused_with_the_count(model: WatchedModel, name: str) -> None:
    long = "x" * (MAX_CHUNKS * 75 + 1)
    job = make_job("long", guidance=5.0, prompt=long if name == "prompt" else "a cat")
    job = replace(job, negative_prompt=long if name == "negative_prompt" else None)
    with pytest.raises(RequestRejected, match=rf"^{name} has 601 tokens, which make 9 chunks; at most 8") as caught:
        model.segments(job)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert stage(model).run(job).codes() == {"long": ErrorCode.INVALID_REQUEST}
    if name == "negative_prompt":
        assert model.segments(replace(job, request=replace(job.request, guidance_scale=1.0)))


def test_rows_of_other_lengths_do_not_share_a_step(model: WatchedModel) -> None:
    groups = [
        segment.group for chunks in (1, 2, 3) for segment in model.segments(make_job("j", prompt=text_of(chunks)))
    ]
    assert [group.chunks for group in groups] == [1, 2, 3]
    assert len(set(groups)) == 3
    assert Group(groups[0].stage, groups[0].height, groups[0].width, guided=False) == groups[0]


def _long_jobs(count: int, seed: int, loras: Sequence[str] = ()) -> list[Job]:
    """Random jobs of one to three chunks in the positive, the negative prompt or both."""
    rng = random.Random(seed)
    return [
        replace(
            job,
            prompt=text_of(rng.randint(1, 3), rng.randrange(9)),
            negative_prompt=rng.choice([None, "", "blurry", text_of(rng.randint(1, 2))]),
        )
        for job in random_jobs(count, rng, loras=loras)
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_pixels_of_long_prompts_do_not_depend_on_company(model: WatchedModel) -> None:
    jobs = _long_jobs(48, 0, LORAS)
    result = in_company(model, jobs, random.Random(1))
    assert (result["differing_pixels"], result["differing_latents"], result["refused"]) == (0, 0, 0)
    assert result["refined"] > 5
    assert result["preemptions"] > 5


def test_a_short_prompt_is_the_same_beside_long_ones(model: WatchedModel) -> None:
    short = [replace(job, prompt="a cat", negative_prompt=None) for job in random_jobs(2, random.Random(2))]
    long = _long_jobs(6, 3)[2:]
    lonely, company = alone(model, short, deterministic=True), draw(model, [*short, *long], deterministic=True)
    company.drawn = {job.job_id: company.drawn[job.job_id] for job in short}
    assert differing_latents(lonely, company) == 0


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_a_long_prompt_alone_equals_diffusers_on_the_same_embeddings(model: WatchedModel, guidance: float) -> None:
    job = make_job("long", guidance=guidance, prompt=text_of(2), steps=5)
    job = replace(job, negative_prompt="blurry")
    ours = alone(model, [job], deterministic=False).drawn["long"].latents
    prompt, pooled = by_diffusers(model.base, [chunk_of(0), chunk_of(1)])
    negative, negative_pooled = by_diffusers(model.base, ["blurry", ""])
    own = model.base.scheduler
    model.base.scheduler = make_scheduler(job.request.scheduler, own.config)
    try:
        theirs = model.base(
            prompt_embeds=prompt,
            pooled_prompt_embeds=pooled,
            negative_prompt_embeds=negative,
            negative_pooled_prompt_embeds=negative_pooled,
            height=job.request.height,
            width=job.request.width,
            num_inference_steps=5,
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(job.seed),
            output_type="latent",
        ).images
    finally:
        model.base.scheduler = own
    assert torch.equal(ours, theirs)


def test_the_clip_tokenizer_says_nothing_of_its_limit(model: WatchedModel, caplog: pytest.LogCaptureFixture) -> None:
    encode(model.base, text_of(3), None, guided=True, device=CPU)
    assert not [record for record in caplog.records if "77" in record.getMessage()]


def test_half_precision_stays(tmp_path: Path) -> None:
    half = load_toy(tmp_path, torch.bfloat16)
    prompt, _, pooled, _ = encode(half.base, text_of(2), None, guided=True, device=CPU)
    assert (prompt.dtype, pooled.dtype) == (torch.bfloat16, torch.bfloat16)
    assert torch.equal(prompt, by_diffusers(half.base, [chunk_of(0), chunk_of(1)])[0])
