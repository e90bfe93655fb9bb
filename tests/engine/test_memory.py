"""Out of memory at every possible call: each job ends once, with the right picture or as `out_of_memory`."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from devtools.bench.equality.jobs import write_loras
from tests.engine.allocator import OUT_OF_MEMORY, FakeAllocator
from tests.engine.scenario import Stage, make_job, stage
from worker.engine import gauges, memory
from worker.engine.memory import Rung
from worker.engine.pipeline import SdxlModel
from worker.errors import ErrorCode
from worker.job import Lane
from worker.models.load import load_base, load_refiner
from worker.picture import Picture
from worker.telemetry import metrics

pytestmark = pytest.mark.slow

SLOTS = 2
OWN_NOISE = ("EulerAncestralDiscreteScheduler", "DDPMScheduler")
# In a batch of another size other kernels are at work, which differ in the last bits.
PIXELS_MAY_DIFFER_BY = 2

JOBS = (
    make_job("guided", steps=3, guidance=5.0, seed=1),
    make_job("noisy", steps=2, seed=2, scheduler=OWN_NOISE[0]),
    make_job("refined", steps=3, seed=3, refined=True, scheduler=OWN_NOISE[1], prompt="a dog"),
    make_job("lora", steps=1, seed=4, loras=[("ink", 1.0)], lane=Lane.HIGH),
)


@pytest.fixture(scope="module")
def loaded(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    base = load_base(str(toy / "base"), dtype=torch.float32, device="cpu")
    folder = tmp_path_factory.mktemp("loras")
    write_loras(folder, base)
    return base, load_refiner(str(toy / "refiner"), dtype=torch.float32, device="cpu", share=base), folder


@pytest.fixture
def model(loaded: tuple[Any, Any, Path]) -> SdxlModel:
    base, refiner, folder = loaded
    return SdxlModel(base, refiner, lora_dir=folder)


@pytest.fixture
def allocator(model: SdxlModel, monkeypatch: pytest.MonkeyPatch) -> FakeAllocator:
    return FakeAllocator(model, monkeypatch, OWN_NOISE)


@pytest.mark.timeout(1200)  # a minute of work, on a machine that may be busy
@pytest.mark.parametrize("late", [False, True], ids=["before its work", "after its work"])
def test_any_one_allocation_may_fail_and_every_picture_is_the_same(
    model: SdxlModel, allocator: FakeAllocator, late: bool
) -> None:
    undisturbed, calls = _undisturbed(model, allocator)
    failed = set()
    for call in range(calls):
        allocator.restart({call}, late=late)
        play = _play(model)
        failed |= set(allocator.failed)
        assert len(allocator.failed) == 1
        _assert_same(play, undisturbed, reproducible=True, because=f"call {call}, {allocator.failed}")
    models = {"base unet", "refiner unet", "text encoder", "base text encoder 2", "refiner text encoder 2", "vae"}
    assert failed >= models | {"lora", "noise", "torch.cat", "torch.stack", *OWN_NOISE}


@pytest.mark.parametrize("length", [2, 3, 4])
def test_failures_in_a_row_shrink_the_batch_and_mark_its_pictures(
    model: SdxlModel, allocator: FakeAllocator, length: int
) -> None:
    undisturbed, calls = _undisturbed(model, allocator)
    marked = 0
    for call in range(length, calls, 7):
        allocator.restart(range(call, call + length), late=bool(call % 2))
        play = _play(model)
        _assert_same(play, undisturbed, reproducible=None, because=f"call {call}, {allocator.failed}", many=length > 2)
        marked += sum(not picture.reproducible for picture in play.pictures.values())
    assert marked


def test_allocations_that_always_fail_end_every_job_once(model: SdxlModel, allocator: FakeAllocator) -> None:
    _, calls = _undisturbed(model, allocator)
    for call in range(0, calls, 9):
        allocator.restart(range(call, 1_000_000))
        play = _play(model)
        assert set(play.outcomes) == {job.job_id for job in JOBS}
        assert set(play.outcomes.values()) == {1}
        assert set(play.codes().values()) <= {ErrorCode.OUT_OF_MEMORY}
        assert play.failures
    model.lora_cache.free()
    assert model.lora_cache.loaded == 0, "a failed job kept its LoRA"


@pytest.mark.parametrize("place", ["unet", "vae"])
def test_a_job_too_large_for_the_device_fails_alone(
    model: SdxlModel, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    jobs = [make_job("large", steps=3, height=128), *(make_job(f"{i}", steps=3, seed=i) for i in range(3))]
    clean = _run(model, jobs).pictures
    owner, name = (model.base.unet, "forward") if place == "unet" else (model.base.vae, "decode")
    _fails_when(monkeypatch, owner, name, lambda latents: latents.shape[-2] == 128 // 8)
    play = _run(model, jobs)
    assert play.codes() == {"large": ErrorCode.OUT_OF_MEMORY}
    for job_id, picture in play.pictures.items():
        assert np.abs(picture.pixels.astype(int) - clean[job_id].pixels).max() <= PIXELS_MAY_DIFFER_BY
        if picture.reproducible:
            assert np.array_equal(picture.pixels, clean[job_id].pixels)


def test_after_a_job_failed_alone_the_others_share_batches_again(
    model: SdxlModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fails_when(monkeypatch, model.base.unet, "forward", lambda latents: latents.shape[-2] == 128 // 8)
    play = stage(model, slots=SLOTS)
    play.submit(make_job("large", lane=Lane.URGENT, height=128), make_job("a", steps=5), make_job("b", steps=5))
    rungs = []
    while "large" not in play.failures:
        play.tick()
        rungs.append(metrics.MEMORY_RUNG._value.get())
    assert rungs == [1, 2, 3, 4, 0]
    play.tick()
    assert play.scheduler.counts.row_steps == SLOTS
    play.run()
    assert all(picture.reproducible for picture in play.pictures.values())


def test_a_decode_that_fails_leaves_the_batch_as_it_is(model: SdxlModel, monkeypatch: pytest.MonkeyPatch) -> None:
    decodes = []
    decode = model.base.vae.decode

    def fail_twice(latents: torch.Tensor, **options: Any) -> Any:
        decodes.append(model.base.vae.use_tiling)
        if len(decodes) < 3:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return decode(latents, **options)

    monkeypatch.setattr(model.base.vae, "decode", fail_twice)
    play = stage(model, slots=SLOTS)
    play.submit(make_job("short", steps=1), make_job("long", steps=5))
    play.tick(3)
    assert decodes == [False, False, True]
    assert play.scheduler.sizes.rows_max == SLOTS
    assert not play.pictures["short"].reproducible
    play.run()
    assert not play.pictures["long"].reproducible, "it was decoded on the same rung"
    assert play.run(make_job("later")).pictures["later"].reproducible
    assert not model.base.vae.use_tiling


def test_the_ladder_comes_down_when_the_engine_is_idle(model: SdxlModel, allocator: FakeAllocator) -> None:
    undisturbed, _ = _undisturbed(model, allocator)
    play = stage(model, slots=SLOTS)
    allocator.restart(range(10, 14))
    play.run(*JOBS)
    assert play.engine._ladder.rung is Rung.NORMAL
    assert play.scheduler.sizes.rows_max == SLOTS
    allocator.restart(())
    again = play.run(make_job("later", steps=3, guidance=5.0, seed=1)).pictures["later"]
    assert again.reproducible
    assert np.array_equal(again.pixels, undisturbed["guided"].pixels)


def test_what_a_failed_step_held_is_free_when_memory_is_freed(
    model: SdxlModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    forward = model.base.unet.forward

    def fail_once(*args: Any, **kwargs: Any) -> Any:
        if held:
            return forward(*args, **kwargs)
        activations = torch.zeros(8)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    alive: list[bool] = []
    free = memory._free
    monkeypatch.setattr(model.base.unet, "forward", fail_once)

    def look_and_free(model: SdxlModel) -> None:
        alive.append(held[0]() is not None)
        free(model)

    monkeypatch.setattr(memory, "_free", look_and_free)
    assert "job" in _run(model, [make_job("job")]).pictures
    assert alive == [False]


def test_failed_allocations_of_cublas_count_as_out_of_memory(model: SdxlModel, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")]
    forward = model.base.unet.forward

    def fail_once(*args: Any, **kwargs: Any) -> Any:
        if errors:
            raise errors.pop()
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.base.unet, "forward", fail_once)
    assert "job" in _run(model, [make_job("job")]).pictures


def test_other_errors_are_not_taken_for_a_lack_of_memory(model: SdxlModel, monkeypatch: pytest.MonkeyPatch) -> None:
    _fails_when(monkeypatch, model.base.unet, "forward", lambda _: True, RuntimeError("device-side assert"))
    with pytest.raises(RuntimeError, match="device-side assert"):
        _run(model, [make_job("job")])


def test_a_float16_vae_that_ran_out_of_memory_half_way_to_float32_decodes_the_same(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = SdxlModel(load_base(str(toy / "base"), dtype=torch.float16, device="cpu"))
    clean = _run(half, [make_job("job")]).pictures["job"]
    to, failures = torch.nn.Module.to, [1]

    def fail_once(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
        if failures and dtype is torch.float32:
            failures.pop()
            to(half.base.vae.post_quant_conv, dtype)
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return to(module, dtype)

    monkeypatch.setattr(torch.nn.Module, "to", fail_once)
    picture = _run(half, [make_job("job")]).pictures["job"]
    assert not failures
    assert np.array_equal(picture.pixels, clean.pixels)
    assert {tensor.dtype for tensor in half.base.vae.parameters()} == {torch.float16}


def test_free_and_peak_memory_are_metrics_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3_000, 8_000))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 5_000)
    gauges.set_memory(torch.device("cuda", 0), Rung.VAE_TILED)
    assert metrics.MEMORY.labels("free")._value.get() == 3_000
    assert metrics.MEMORY.labels("peak")._value.get() == 5_000
    assert metrics.MEMORY_RUNG._value.get() == 3


def _run(model: SdxlModel, jobs: Any) -> Stage:
    return stage(model, slots=SLOTS).run(*jobs)


def _play(model: SdxlModel) -> Stage:
    """The scenario, from a cold start: nothing encoded, no LoRA loaded; the last job arrives later and goes first."""
    model.forget_prompts()
    model.lora_cache.free()
    play = stage(model, slots=SLOTS)
    play.submit(*JOBS[:-1])
    play.engine.tick()
    return play.run(JOBS[-1])


def _undisturbed(model: SdxlModel, allocator: FakeAllocator) -> tuple[dict[str, Picture], int]:
    allocator.restart(())
    pictures = _play(model).pictures
    assert set(pictures) == {job.job_id for job in JOBS}
    return pictures, allocator.calls


def _assert_same(
    play: Stage, expected: dict[str, Picture], *, reproducible: bool | None, because: str, many: bool = False
) -> None:
    # Only several failures of the same decode or step in a row may end a job.
    assert set(play.codes().values()) <= ({ErrorCode.OUT_OF_MEMORY} if many else set()), because
    assert play.outcomes == dict.fromkeys(expected, 1), because
    for job_id, picture in play.pictures.items():
        difference = np.abs(picture.pixels.astype(int) - expected[job_id].pixels).max()
        assert difference <= (0 if picture.reproducible else PIXELS_MAY_DIFFER_BY), f"{job_id}: {because}"
        assert reproducible in (None, picture.reproducible), because


def _fails_when(
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    applies: Callable[[torch.Tensor], bool],
    error: Exception | None = None,
) -> None:
    original = getattr(owner, name)

    def fail(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if applies(latents):
            raise error or torch.OutOfMemoryError(OUT_OF_MEMORY)
        return original(latents, *args, **kwargs)

    monkeypatch.setattr(owner, name, fail)
