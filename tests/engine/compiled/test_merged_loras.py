"""LoRAs on the fast path: a step is captured for the second copy of the weights too, which stays where it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from structlog.testing import capture_logs

from devtools.bench.equality.draw import WatchedModel, load_toy
from tests.engine.compiled.compilers import Capturing, NotCompiled, fast_path
from tests.engine.lora_files import TEXT, write_kohya, write_peft
from tests.engine.scenario import Stage, make_job, stage
from worker.engine import cost
from worker.engine.compiled.fast_path import FastPath
from worker.engine.compiled.region import Region
from worker.engine.lora import exchange
from worker.engine.merging import SetMerging
from worker.engine.pipeline import SdxlModel
from worker.job import Job, LoraMethod
from worker.lora_method import LoraMethods, LoraMode

pytestmark = pytest.mark.slow

SETS: dict[str, list[tuple[str, float]]] = {
    "bare": [],
    "one": [("one", 0.8)],
    "two": [("two", -1.0), ("one", 0.3)],
    "text": [("text", 1.0)],
    "narrow": [("narrow", 0.9)],
}
NAME = "base 8x8 77x1 guided 8"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> WatchedModel:
    """A model with the LoRAs of `SETS`, and one that brings a bias; tests make their own from its pipelines."""
    model = load_toy(tmp_path_factory.mktemp("merged"))
    folder, base = model.lora_dir, model.base
    assert folder is not None
    write_peft(folder / "one.safetensors", base, seed=1, text=TEXT)
    write_kohya(folder / "two.safetensors", base, seed=2, rank=8)
    write_peft(folder / "text.safetensors", base, seed=3, text=TEXT[1:])
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    difference = torch.randn(base.unet.get_submodule(layer).weight.shape, generator=torch.Generator().manual_seed(5))
    save_file({f"diffusion_model.{layer}.diff": difference}, folder / "narrow.safetensors")
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    bias = torch.randn(base.unet.get_submodule(name).weight.shape[0], generator=torch.Generator().manual_seed(4))
    save_file({f"diffusion_model.{name}.diff_b": bias}, folder / "bias.safetensors")
    return model


@pytest.fixture
def make_model(toy: WatchedModel) -> Any:
    """Makes models of the same pipelines; in the end, these have their own weights again."""
    made: list[SdxlModel] = []

    def make(**options: Any) -> SdxlModel:
        give_back(made)
        made.append(SdxlModel(toy.base, toy.refiner, lora_dir=toy.lora_dir, **options))
        return made[-1]

    yield make
    give_back(made)


def give_back(made: Sequence[SdxlModel]) -> None:
    for model in made:
        model.lora_cache.exchange.bring(None)


def guided(job_id: str, loras: Sequence[tuple[str, float]] = (), **how: Any) -> Job:
    return make_job(job_id, guidance=5.0, loras=loras, **how)


def jobs(**how: Any) -> list[Job]:
    return [guided(name, loras, **how) for name, loras in SETS.items()]


@pytest.fixture(scope="module")
def expected(toy: WatchedModel) -> dict[str, Any]:
    """The pictures of `jobs`, each drawn alone by the eager steps of a worker without a fast path."""
    model = SdxlModel(toy.base, toy.refiner, lora_dir=toy.lora_dir)
    return {job.job_id: stage(model).run(job).pictures[job.job_id].pixels for job in jobs()}


def assert_same(play: Stage, expected: dict[str, Any]) -> None:
    assert play.pictures.keys() == expected.keys(), play.codes()
    assert [name for name in expected if not np.array_equal(play.pictures[name].pixels, expected[name])] == []


@pytest.mark.parametrize("options", [{}, {"lora_second_copy": False}], ids=["second copy", "in place"])
@pytest.mark.parametrize("slices", ["whole", "one layer a step"])
def test_captured_steps_draw_every_set_as_if_it_were_alone(
    make_model: Any, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], slices: str
) -> None:
    if slices == "one layer a step":
        monkeypatch.setattr(exchange, "_SLICE_ELEMENTS", 1)
        monkeypatch.setattr(SetMerging, "_for", lambda *_: lambda: False)
    model = make_model(**options)
    accelerator = Capturing(model.base.unet)
    fast = fast_path(model, accelerator=accelerator)
    assert fast.names == (NAME, f"{NAME} with LoRAs")
    captured, before = accelerator.captured, accelerator.replayed
    assert captured == (1 if options else 2)
    play = stage(model, fast=fast)
    for job in jobs():
        # They arrive one after the other, each while others are drawn or their sets merged.
        play.submit(job)
        play.tick(2)
    play.run()
    assert_same(play, expected)
    assert all(picture.compiled and picture.reproducible for picture in play.pictures.values())
    assert accelerator.captured == captured, "nothing is captured while the worker serves"
    assert accelerator.replayed - before == play.scheduler.counts.steps


def test_a_set_has_the_same_bits_after_every_exchange_and_beside_jobs_that_are_not_compiled(
    make_model: Any, expected: dict[str, Any]
) -> None:
    model = make_model()
    fast = fast_path(model, accelerator=Capturing(model.base.unet))
    pristine = {name: value.clone() for name, value in model.base.unet.named_parameters()}
    for order in (("one", "narrow", "two"), ("narrow", "bare", "one"), ("text", "two", "narrow")):
        play = stage(model, fast=fast)
        for number, name in enumerate(order):
            play.run(guided(name, SETS[name]), guided(f"{number}", SETS["two"], height=128, steps=1))
            assert np.array_equal(play.pictures[name].pixels, expected[name])
        assert not play.pictures["0"].compiled
    model.lora_cache.exchange.bring(None)
    assert all(torch.equal(pristine[name], value) for name, value in model.base.unet.named_parameters())


def test_a_set_that_gives_a_layer_a_bias_is_drawn_eagerly_whatever_else_is_drawn(
    make_model: Any, expected: dict[str, Any]
) -> None:
    job = guided("bias", [("bias", 0.9), ("one", 0.2)])
    alone = stage(make_model()).run(job).pictures["bias"].pixels
    model = make_model()
    play = stage(model, fast=fast_path(model, accelerator=Capturing(model.base.unet))).run(job, *jobs())
    assert {name: picture.compiled for name, picture in play.pictures.items()} == {"bias": False} | dict.fromkeys(
        SETS, True
    )
    assert_same(play, expected | {"bias": alone})


@pytest.mark.parametrize(
    ("mode", "method", "compiled"),
    [
        (LoraMode.MERGED, None, True),
        (LoraMode.MERGED, LoraMethod.HOOKS, False),
        (LoraMode.HOOKS, None, False),
        (LoraMode.HOOKS, LoraMethod.MERGED, False),
        (LoraMode.MIXED, None, False),
        (LoraMode.MIXED, LoraMethod.MERGED, True),
    ],
)
def test_hooks_are_never_compiled(make_model: Any, mode: LoraMode, method: LoraMethod | None, compiled: bool) -> None:
    model = make_model(lora_methods=LoraMethods(mode))
    fast = fast_path(model, accelerator=Capturing(model.base.unet))
    assert (len(fast.names) == 2) == (mode is not LoraMode.HOOKS)
    job = replace(guided("one", SETS["one"]), lora_method=method)
    picture = stage(model, fast=fast).run(job).pictures["one"]
    assert picture.compiled is compiled
    eager = stage(model, fast=fast).run(replace(job, compiled=False)).pictures["one"]
    assert not eager.compiled
    assert np.array_equal(picture.pixels, eager.pixels)


def wrong_for_other_weights(model: SdxlModel) -> Callable[[Region], Region]:
    """A region that computes with the weights that it was made with, as a graph that was captured too early does."""
    capturing, held = Capturing(model.base.unet), list[Any]()

    def spoil(region: Region) -> Region:
        def call(*inputs: torch.Tensor) -> Any:
            if not held:
                held.append(capturing.graph(lambda: region(*inputs)))
            return held[0]()

        return call

    return spoil


def test_a_step_that_computes_with_the_wrong_weights_is_not_used_for_loras(
    make_model: Any, expected: dict[str, Any]
) -> None:
    model = make_model()
    with capture_logs() as lines:
        fast = fast_path(model, NotCompiled(spoil=wrong_for_other_weights(model)))
    assert fast.names == (NAME,)
    [line] = [line for line in lines if line["event"] == "bucket_left_out"]
    assert line["bucket"] == f"{NAME} with LoRAs"
    assert line["reason"].startswith("it differs from the eager steps by ")
    play = stage(model, fast=fast).run(*jobs())
    assert {name for name, picture in play.pictures.items() if picture.compiled} == {"bare"}
    assert_same(play, expected)


def test_a_second_copy_that_is_given_up_is_never_computed_with(make_model: Any, expected: dict[str, Any]) -> None:
    model = make_model()
    accelerator = Capturing(model.base.unet)
    fast = fast_path(model, accelerator=accelerator)
    play = stage(model, fast=fast)
    play.submit(*jobs())
    play.tick(6)
    own = model.lora_cache.exchange
    assert own.bytes_held > 0
    own.give_room()
    assert own.bytes_held == 0
    play.run()
    assert_same(play, expected)
    assert all(picture.compiled and picture.reproducible for picture in play.pictures.values())
    # The engine was idle, and would have taken room again that no graph knows.
    play.run(*[guided(f"{name} again", loras) for name, loras in SETS.items()])
    assert not own.has_second_copy
    assert_same(play, expected | {f"{name} again": pixels for name, pixels in expected.items()})
    fast.forget()
    assert all(bucket._merged is None for bucket in fast._buckets.values())


def test_without_room_for_the_whole_copy_sets_are_merged_into_the_only_one(
    make_model: Any, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calls, real = make_model(), [0], torch.Tensor.clone

    def short(tensor: torch.Tensor, **options: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(tensor, **options)

    monkeypatch.setattr(torch.Tensor, "clone", short)
    model.lora_cache.reserve_second_copy()
    monkeypatch.undo()
    assert calls[0] == 20
    accelerator = Capturing(model.base.unet)
    fast = fast_path(model, accelerator=accelerator)
    assert (accelerator.captured, len(fast.names)) == (1, 2)
    play = stage(model, fast=fast).run(*jobs())
    assert_same(play, expected)
    assert model.lora_cache.exchange.bytes_held == 0


def test_the_refiner_follows_compiled_steps_with_loras(make_model: Any) -> None:
    job = guided("refined", SETS["two"], refined=True, steps=6)
    alone = stage(make_model()).run(job).pictures["refined"].pixels
    model = make_model()
    fast = fast_path(model, stages=list(cost.Stage))
    assert len(fast.names) == 3
    picture = stage(model, fast=fast).run(job).pictures["refined"]
    assert picture.compiled
    assert np.array_equal(picture.pixels, alone)


def test_nothing_is_reserved_where_no_lora_can_be_merged(toy: WatchedModel) -> None:
    for options in ({"lora_dir": None}, {"lora_dir": toy.lora_dir, "lora_methods": LoraMethods(LoraMode.HOOKS)}):
        model = SdxlModel(toy.base, **options)
        assert fast_path(model).names == (NAME,)
        assert model.lora_cache.exchange.bytes_held == 0


def test_an_empty_fast_path_draws_nothing(make_model: Any) -> None:
    assert not FastPath().draws(guided("one", SETS["one"]), [])
    assert not FastPath(make_model()).draws(guided("one"), [cost.Group(cost.Stage.BASE, 8, 8)])
