"""The fast path without a compiler: what runs there, what does not, and what becomes of a bucket that fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from devtools.bench.equality.draw import WatchedModel, load_toy
from tests.engine.allocator import FakeAllocator
from tests.engine.compiled.compilers import NotCompiled, failing, fast_path, spoiled
from tests.engine.scenario import make_job, stage
from worker.engine.compiled.fast_path import FastPath
from worker.engine.cost import Stage
from worker.job import SCHEDULERS, Job
from worker.picture import Picture
from worker.signals import StoppedEarly
from worker.telemetry import metrics

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WatchedModel:
    return load_toy(tmp_path_factory.mktemp("fast-path"))


@pytest.fixture(scope="module")
def fast(model: WatchedModel) -> FastPath:
    return fast_path(model, stages=list(Stage))


def guided(job_id: str, **how: object) -> Job:
    return make_job(job_id, guidance=5.0, **how)  # type: ignore[arg-type]


def drawn(model: WatchedModel, fast: FastPath | None, *jobs: Job) -> dict[str, Picture]:
    scene = stage(model, fast=fast).run(*jobs)
    assert not scene.failures
    return scene.pictures


def test_a_warmed_shape_is_drawn_by_its_bucket_and_says_so(model: WatchedModel, fast: FastPath) -> None:
    [picture] = drawn(model, fast, guided("one")).values()
    [plain] = drawn(model, None, guided("one")).values()
    assert (picture.compiled, picture.reproducible, plain.compiled) == (True, True, False)
    # Without a compiler, the region's bits are those of the eager steps.
    assert np.array_equal(picture.pixels, plain.pixels)


def test_the_refiner_has_a_bucket_of_its_own(model: WatchedModel, fast: FastPath) -> None:
    job = guided("refined", refined=True, steps=6)
    assert [group.stage for group in fast.groups] == list(Stage)
    [picture] = drawn(model, fast, job).values()
    assert picture.compiled
    assert np.array_equal(picture.pixels, drawn(model, None, job)["refined"].pixels)
    [partly] = drawn(model, fast_path(model), job).values()
    assert not partly.compiled, "a job is drawn by buckets altogether or not at all"


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_draws_the_same_alone_and_in_company(
    model: WatchedModel, fast: FastPath, scheduler: str
) -> None:
    one = guided("one", scheduler=scheduler, steps=5)
    others = [guided("two", steps=7, seed=2), guided("three", scheduler="EulerDiscreteScheduler", steps=3, seed=3)]
    lonely = drawn(model, fast, one)["one"]
    company = drawn(model, fast, one, *others)
    assert all(picture.compiled for picture in company.values())
    assert np.array_equal(lonely.pixels, company["one"].pixels)
    assert np.array_equal(lonely.pixels, drawn(model, None, one)["one"].pixels)


@pytest.mark.parametrize(
    "job",
    [
        make_job("unguided"),
        guided("higher", height=128),
        guided("longer", prompt="x" * 80),
        replace(guided("eager then"), compiled=False),
    ],
    ids=lambda job: job.job_id,
)
def test_anything_else_is_drawn_eagerly(model: WatchedModel, fast: FastPath, job: Job) -> None:
    both = drawn(model, fast, job, guided("beside", steps=3))
    assert (both[job.job_id].compiled, both["beside"].compiled) == (False, True)
    assert np.array_equal(both[job.job_id].pixels, drawn(model, None, job)[job.job_id].pixels)


def test_prompts_of_several_chunks_have_buckets_where_they_are_asked_for(model: WatchedModel) -> None:
    fast = fast_path(model, chunks=2)
    assert [group.chunks for group in fast.groups] == [1, 2]
    assert drawn(model, fast, guided("long", prompt="x" * 80))["long"].compiled


def test_unguided_buckets(model: WatchedModel) -> None:
    fast = fast_path(model, guided=False)
    pictures = drawn(model, fast, make_job("unguided"), guided("guided"))
    assert {name: picture.compiled for name, picture in pictures.items()} == {"unguided": True, "guided": False}
    assert np.array_equal(pictures["unguided"].pixels, drawn(model, None, make_job("unguided"))["unguided"].pixels)


def test_a_lora_of_weight_zero_is_none(model: WatchedModel, fast: FastPath) -> None:
    name = next(path.stem for path in sorted(model.lora_dir.iterdir()))  # type: ignore[union-attr]
    assert drawn(model, fast, guided("zero", loras=[(name, 0.0)]))["zero"].compiled


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        (spoiled(lambda out: (out[0], out[1] * 1.5, out[2])), "it differs from the eager steps by "),
        (spoiled(lambda out: (out[0], out[1] * float("nan"), out[2])), "it differs from the eager steps by nan"),
        (spoiled(lambda out: (out[0], out[1] + 1e-5 * torch.randn(out[1].shape), out[2])), "with other bits"),
        (
            failing(RuntimeError("the compiler has crashed\nand says much more")),
            "RuntimeError: the compiler has crashed",
        ),
        (failing(torch.OutOfMemoryError("no")), "it needs more memory than there is"),
        (failing(RuntimeError(""), after=3), "RuntimeError: "),
    ],
    ids=["wrong", "nan", "noisy", "raises", "too large", "raises midway"],
)
def test_a_bucket_that_fails_its_check_is_left_out_with_a_line(
    model: WatchedModel, compiler: NotCompiled, reason: str
) -> None:
    before = metrics.COMPILED_FALLBACKS._value.get()
    with capture_logs() as lines:
        fast = fast_path(model, compiler)
    assert fast.names == ()
    [line] = [line for line in lines if line["event"] == "bucket_left_out"]
    assert line["reason"].startswith(reason) or reason in line["reason"]
    assert "\n" not in line["reason"]
    assert metrics.COMPILED_FALLBACKS._value.get() == before + 1
    [picture] = drawn(model, fast, guided("one")).values()
    assert not picture.compiled
    assert np.array_equal(picture.pixels, drawn(model, None, guided("one"))["one"].pixels)


def test_a_signal_during_the_warm_up_ends_it(model: WatchedModel) -> None:
    with pytest.raises(StoppedEarly):
        fast_path(model, failing(StoppedEarly(15), after=1))


def test_a_bucket_that_fails_while_it_serves_is_given_up_and_its_rows_are_drawn_eagerly(model: WatchedModel) -> None:
    # Each of the two checks runs two steps, with the model's own weights and with the second copy.
    fast = fast_path(model, failing(RuntimeError("broken"), after=10))
    before = metrics.COMPILED_FALLBACKS._value.get()
    scene = stage(model, fast=fast)
    with capture_logs() as lines:
        scene.run(guided("one"), guided("two", seed=2))
    assert [line["reason"] for line in lines if line["event"] == "bucket_given_up"] == ["RuntimeError: broken"]
    assert metrics.COMPILED_FALLBACKS._value.get() == before + 1
    assert sorted(scene.pictures) == ["one", "two"]
    # Partly drawn by the one, partly by the other: not to be made again.
    assert not any(picture.reproducible for picture in scene.pictures.values())
    later = scene.run(guided("three")).pictures["three"]
    assert (later.compiled, later.reproducible) == (False, True)


@pytest.mark.parametrize("late", [False, True])
def test_any_failing_allocation_leaves_the_rows_as_they_were(
    model: WatchedModel, fast: FastPath, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    jobs = [guided("one", steps=2), guided("two", steps=2, seed=2, scheduler="EulerDiscreteScheduler")]
    expected = drawn(model, fast, *jobs)
    allocator = FakeAllocator(model, monkeypatch, SCHEDULERS)
    allocator.restart(())
    drawn(model, fast, *jobs)
    calls = allocator.calls
    assert calls > 20
    for call in range(late, calls, 2):
        allocator.restart({call}, late=late)
        pictures = drawn(model, fast, *jobs)
        assert len(allocator.failed) == 1
        for name, picture in pictures.items():
            assert picture.compiled
            assert np.array_equal(picture.pixels, expected[name].pixels), (call, allocator.failed)
    assert fast.names
