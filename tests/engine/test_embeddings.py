"""Textual inversion: what diffusers gives with the same vectors, and a sentence for a file that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from structlog.testing import capture_logs

from devtools.bench.equality.compare import differing_latents, differing_pixels
from devtools.bench.equality.draw import WatchedModel, alone, draw, load_toy
from tests.engine.scenario import make_job, stage
from tests.engine.test_prompt import chunk_of
from worker.engine.embeddings import CLIP_G, CLIP_L, Embeddings, embedding_widths, read_embeddings
from worker.engine.prompt import chunks_needed, encode
from worker.errors import ErrorCode, RequestRejected, SettingsError
from worker.prompt_syntax import PromptSyntax
from worker.settings import Settings

CPU = torch.device("cpu")
A1111 = PromptSyntax.A1111


def vectors(count: int, base: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, width, generator=generator) for name, width in embedding_widths(base).items()}


def write(folder: Path, base: Any, **counts: int) -> Embeddings:
    for seed, (name, count) in enumerate(counts.items()):
        save_file(vectors(count, base, seed), folder / f"{name}.safetensors")
    return read_embeddings(folder, embedding_widths(base))


def by_diffusers(reference: Any, tensors: Mapping[str, torch.Tensor], prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """diffusers' own encoding with `<x>` as the name of the vectors."""
    for key, encoder, tokenizer in (
        (CLIP_L, reference.text_encoder, reference.tokenizer),
        (CLIP_G, reference.text_encoder_2, reference.tokenizer_2),
    ):
        reference.load_textual_inversion({"<x>": tensors[key]}, token="<x>", text_encoder=encoder, tokenizer=tokenizer)
    encoded = reference.encode_prompt(prompt, device=CPU, do_classifier_free_guidance=False)
    return encoded[0], encoded[2]


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("prompt", ["{}", "a {} cat", "cat, {}, hat", "a cat {}."])
def test_it_is_what_diffusers_gives(base: Any, reference: Any, tmp_path: Path, count: int, prompt: str) -> None:
    embeddings = write(tmp_path, base, Glow=count)
    ours = encode(base, prompt.format("glow"), None, guided=False, device=CPU, embeddings=embeddings)
    hidden, pooled = by_diffusers(reference, vectors(count, base), prompt.format("<x>"))
    assert torch.equal(ours[0], hidden)
    assert torch.equal(ours[2], pooled)


@pytest.mark.parametrize("named", ["glow", "GLOW", "embedding:glow", "(embedding:Glow)", "glow,", "glow.", "-glow"])
def test_a_name_is_a_word_of_the_prompt(base: Any, tmp_path: Path, named: str) -> None:
    found = list(write(tmp_path, base, glow=1).mentions(f"a {named} cat"))
    assert [f"a {named} cat"[m.first : m.last].lower().removeprefix("embedding:") for m in found] == (
        ["glow"] if named != "-glow" else []
    )


@pytest.mark.parametrize("text", ["glowing", "aglow", "glow-up", "glow_2", "a.glow", "g low", ""])
def test_part_of_a_word_is_no_name(base: Any, tmp_path: Path, text: str) -> None:
    assert list(write(tmp_path, base, glow=1).mentions(text)) == []


def test_names_with_dots_and_hyphens(base: Any, tmp_path: Path) -> None:
    embeddings = write(tmp_path, base, **{"glow": 1, "glow-2.5": 2})
    assert [m.last - m.first for m in embeddings.mentions("glow-2.5, glow. glow-2.5.")] == [8, 4, 8]


def test_weights_apply_and_the_name_is_no_text(base: Any, tmp_path: Path) -> None:
    embeddings = write(tmp_path, base, glow=2)
    plain = encode(base, "a glow", None, guided=False, device=CPU, embeddings=embeddings)[0]
    weighted = encode(base, "a (glow:1.5)", None, guided=False, device=CPU, embeddings=embeddings, syntax=A1111)[0]
    expected = plain.clone()
    expected[:, 2:4] *= 1.5
    assert torch.equal(weighted, expected)


def test_a_name_is_never_cut_between_chunks(base: Any, tmp_path: Path) -> None:
    embeddings = write(tmp_path, base, glow=4)
    # The toy's tokenizer gives each letter a token.
    assert chunks_needed(base, "x" * 71 + " glow", None, embeddings=embeddings) == 1
    assert chunks_needed(base, "x" * 72 + " glow", None, embeddings=embeddings) == 2
    long = encode(base, "x" * 72 + " glow", None, guided=False, device=CPU, embeddings=embeddings)[0]
    alone_ = encode(base, "glow", None, guided=False, device=CPU, embeddings=embeddings)[0]
    assert torch.equal(long[:, 77:], alone_)


def test_nothing_is_left_behind(base: Any, tmp_path: Path) -> None:
    embeddings = write(tmp_path, base, glow=2)
    before = encode(base, chunk_of(0), None, guided=False, device=CPU)[0]
    encode(base, "glow", None, guided=False, device=CPU, embeddings=embeddings)
    assert torch.equal(before, encode(base, chunk_of(0), None, guided=False, device=CPU, embeddings=embeddings)[0])
    assert not base.text_encoder.get_input_embeddings()._forward_hooks


def test_without_the_setting_names_are_words(base: Any) -> None:
    none = read_embeddings(None, embedding_widths(base))
    assert none.fingerprint is None
    assert list(none.mentions("embedding:glow, glow")) == []


WRONG: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "of Stable Diffusion 1.5": ({"emb_params": (2, 768)}, "no clip_l vectors, so it was made for another model"),
    "of one encoder": ({"clip_l": (2, 32)}, "no clip_g vectors, so it was made for another model"),
    "of other widths": ({"clip_l": (2, 32), "clip_g": (2, 32)}, "clip_g vectors are of shape (2, 32); this model's"),
    "of unlike counts": ({"clip_l": (2, 32), "clip_g": (3, 64)}, "it has 2 clip_l and 3 clip_g vectors"),
    "of none": ({"clip_l": (0, 32), "clip_g": (0, 64)}, "it has 0 clip_l"),
    "of too many": ({"clip_l": (76, 32), "clip_g": (76, 64)}, "1 to 75"),
    "of pictures": ({"clip_l": (1, 2, 32), "clip_g": (1, 2, 64)}, "of shape (1, 2, 32)"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_cannot_be_used_is_told_at_the_start_and_to_who_names_it(
    base: Any, tmp_path: Path, kind: str
) -> None:
    shapes, sentence = WRONG[kind]
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "bad.safetensors")
    with capture_logs() as lines:
        embeddings = write(tmp_path, base, glow=1)
    assert [(line["event"], sentence in line["reason"]) for line in lines] == [("embedding_unusable", True)]
    assert list(embeddings.mentions("a glow, a badge"))
    for text in ("a bad cat", "embedding:bad"):
        with pytest.raises(RequestRejected) as caught:
            list(embeddings.mentions(text))
        assert caught.value.code is ErrorCode.INVALID_REQUEST
        assert sentence in caught.value.message


@pytest.mark.parametrize(("name", "sentence"), [("bad.pt", "pickled"), ("bad.safetensors", "no safetensors file")])
def test_a_file_of_another_format_is_told(base: Any, tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(RequestRejected, match=sentence):
        list(read_embeddings(tmp_path, embedding_widths(base)).mentions("bad"))


def test_vectors_that_are_not_finite_are_refused(base: Any, tmp_path: Path) -> None:
    save_file({name: v * torch.inf for name, v in vectors(1, base).items()}, tmp_path / "bad.safetensors")
    with pytest.raises(RequestRejected, match="not finite"):
        list(read_embeddings(tmp_path, embedding_widths(base)).mentions("bad"))


def test_the_fingerprint_is_of_names_and_contents(base: Any, tmp_path: Path) -> None:
    first = write(tmp_path, base, glow=1).fingerprint
    assert write(tmp_path, base, glow=1).fingerprint == first
    assert write(tmp_path, base, glow=2).fingerprint != first
    write(tmp_path, base, glow=1)
    (tmp_path / "glow.safetensors").rename(tmp_path / "shine.safetensors")
    assert read_embeddings(tmp_path, embedding_widths(base)).fingerprint not in (first, None)


def test_a_folder_that_is_none_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"SDXL_EMBEDDINGS_PATH: .*No such file"):
        Settings(_env_file=None, sdxl_embeddings_path=tmp_path / "no").check_paths()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WatchedModel:
    folder = tmp_path_factory.mktemp("embeddings")
    model = load_toy(tmp_path_factory.mktemp("toy"))
    model.embeddings = write(folder, model.base, glow=3, ink=1)
    return model


def test_pictures_with_embeddings_do_not_depend_on_company(model: WatchedModel) -> None:
    texts = ["a cat", "a glow cat", "a ink cat", "a glow ink cat"]
    jobs = [make_job(f"job-{n}", prompt=text, guidance=5.0, refined=n % 2 == 1) for n, text in enumerate(texts)]
    jobs = [replace(job, negative_prompt="glow") for job in jobs]
    lonely = alone(model, jobs, deterministic=True)
    assert differing_latents(lonely, draw(model, jobs, deterministic=True)) == 0
    without = alone(load_toy_like(model), jobs, deterministic=True)
    assert differing_pixels(lonely, without) > 0


def load_toy_like(model: WatchedModel) -> WatchedModel:
    return WatchedModel(model.base, model.refiner)


def test_a_missing_embedding_fails_the_job_with_a_sentence(model: WatchedModel) -> None:
    failure = stage(model).run(make_job("job", prompt="a embedding:shine cat")).failures["job"]
    assert failure.code is ErrorCode.INVALID_REQUEST
    assert failure.message == "the prompt names the embedding shine, which this worker does not have"
