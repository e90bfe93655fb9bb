"""Embeddings that a LoRA's file brings with it (`bundle_emb`): as if they lay in the folder of embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from devtools.bench.equality.compare import differing_latents, differing_pixels
from devtools.bench.equality.draw import WatchedModel, alone, draw, load_toy
from tests.engine.lora_files import Tensors, refused, write_kohya
from tests.engine.scenario import make_job, stage
from tests.engine.test_embeddings import vectors, write
from worker.engine.embeddings import CLIP_G, CLIP_L
from worker.engine.lora.cache import LoraCache, Loras
from worker.engine.pipeline import SdxlModel
from worker.errors import ErrorCode

pytestmark = pytest.mark.slow


def bundle(base: Any, name: str = "Glow", count: int = 3, seed: int = 0) -> Tensors:
    """Keys as OneTrainer and A1111 name them."""
    return {f"bundle_emb.{name}.{key}": tensor for key, tensor in vectors(count, base, seed).items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WatchedModel:
    return load_toy(tmp_path_factory.mktemp("toy"))


def with_loras(model: WatchedModel, folder: Path) -> WatchedModel:
    return WatchedModel(model.base, model.refiner, lora_dir=folder)


def test_it_draws_what_an_embedding_of_the_folder_draws(model: WatchedModel, tmp_path: Path) -> None:
    loras, apart, embeddings = tmp_path / "loras", tmp_path / "apart", tmp_path / "embeddings"
    for folder in (loras, apart, embeddings):
        folder.mkdir()
    tensors = write_kohya(apart / "lora.safetensors", model.base)
    save_file(tensors | bundle(model.base), loras / "lora.safetensors")
    job = make_job("job", prompt="a glow cat", guidance=5.0, refined=True, steps=12, loras=[("lora", 0.7)])
    whole, bare = with_loras(model, loras), with_loras(model, apart)
    ours = alone(whole, [job], deterministic=True)
    assert differing_pixels(ours, alone(bare, [job], deterministic=True)) > 0
    bare.embeddings = write(embeddings, model.base, glow=3)
    bare.forget_prompts()
    assert differing_latents(ours, alone(bare, [job], deterministic=True)) == 0


def test_a_name_counts_for_the_jobs_with_the_lora_alone(model: WatchedModel, tmp_path: Path) -> None:
    save_file(bundle(model.base), tmp_path / "lora.safetensors")
    save_file(bundle(model.base, seed=5, count=70), tmp_path / "long.safetensors")
    ours = with_loras(model, tmp_path)
    sets: tuple[Loras, ...] = ([("lora", 1.0)], [], [("lora", 0.0)], [("long", 1.0)])
    prompt = "a glow cat glow and many more words that a chunk of a prompt has room for"
    jobs = [
        make_job(f"job-{n}", prompt=prompt, guidance=5.0, refined=n == 0, steps=12, loras=loras)
        for n, loras in enumerate(sets)
    ]
    lonely = alone(ours, jobs, deterministic=True)
    assert len(lonely.drawn) == len(jobs)
    assert differing_latents(lonely, draw(ours, jobs, deterministic=True)) == 0
    latents = [lonely.drawn[f"job-{n}"].latents for n in range(4)]
    assert torch.equal(latents[1], latents[2])
    assert not torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[3], latents[1])


def test_two_of_one_name_are_refused(model: WatchedModel, tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        save_file(bundle(model.base, seed=seed // 2), tmp_path / f"{name}.safetensors")
    ours = with_loras(model, tmp_path)
    assert len(alone(ours, [make_job("same", loras=[("a", 1.0), ("b", 1.0)])], deterministic=True).drawn) == 1
    failure = stage(ours).run(make_job("job", loras=[("a", 1.0), ("c", 1.0)])).failures["job"]
    assert failure.code is ErrorCode.INVALID_REQUEST
    assert failure.message == "LoRAs a and c bring different embeddings of the name glow"


def test_bundles_that_cannot_be_used_are_refused(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    good = bundle(base)
    files: tuple[tuple[Tensors, str], ...] = (
        ({f"bundle_emb.Glow.{CLIP_L}": good[f"bundle_emb.Glow.{CLIP_L}"]}, "embedding Glow cannot be used: it has no"),
        ({"bundle_emb.Glow.string_to_param.*": torch.ones(1, 768)}, "made for another model than SDXL"),
        ({**good, f"bundle_emb.Glow.{CLIP_G}": torch.full((3, 64), torch.nan)}, "cannot be used"),
        (bundle(base, name="<glow>"), "has a name that a prompt cannot use"),
        ({**good, **bundle(base, name="GLOW")}, "has a name that a prompt cannot use"),
        ({"bundle_emb.clip_l": torch.ones(1, 64)}, "does not name an embedding"),
    )
    for number, (tensors, said) in enumerate(files):
        save_file(tensors, folder / f"f{number}.safetensors")
        refused(lora_cache, f"f{number}", said)


def test_one_that_is_replaced_while_the_job_waits_changes_nothing_for_it(model: WatchedModel, tmp_path: Path) -> None:
    save_file(bundle(model.base), tmp_path / "lora.safetensors")
    ours = SdxlModel(model.base, model.refiner, lora_dir=tmp_path)
    job = make_job("job", prompt="glow", loras=[("lora", 1.0)])
    undisturbed = stage(ours).run(job).pictures["job"].pixels
    engine = stage(ours)
    engine.submit(job, make_job("other"))
    engine.engine._inbox.run()
    save_file(bundle(model.base, count=75), tmp_path / "lora.safetensors")
    engine.run()
    assert (engine.pictures["job"].pixels == undisturbed).all()
    assert "other" in engine.pictures
    ours.lora_cache.free()
    assert ours.lora_cache.loaded == 0, "the job has released its LoRA"
