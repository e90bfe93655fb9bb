"""The fast path with torch's tracer: one graph for each bucket, and none while the worker serves.

The backend traces the same graphs as inductor and writes no kernels, which would take minutes here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from devtools.bench.equality.draw import WatchedModel, load_toy
from tests.engine.compiled.compilers import fast_path
from tests.engine.scenario import make_job, stage
from worker.engine.compiled.compiler import Compiler, graphs
from worker.engine.compiled.fast_path import FastPath
from worker.job import Job
from worker.picture import Picture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WatchedModel:
    return load_toy(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def fast(model: WatchedModel) -> FastPath:
    before = graphs()
    fast = fast_path(model, Compiler("aot_eager"))
    # The second copy, into which LoRAs are merged, is drawn with the same graph.
    assert (len(fast.names), graphs() - before) == (2, 1)
    return fast


def guided(job_id: str, **how: object) -> Job:
    return make_job(job_id, guidance=5.0, **how)  # type: ignore[arg-type]


def drawn(model: WatchedModel, fast: FastPath, *jobs: Job) -> dict[str, Picture]:
    scene = stage(model, fast=fast).run(*jobs)
    assert not scene.failures
    return scene.pictures


def test_nothing_is_compiled_after_the_warm_up(model: WatchedModel, fast: FastPath) -> None:
    names = [path.stem for path in sorted(model.lora_dir.iterdir())]  # type: ignore[union-attr]
    before = graphs()
    pictures = drawn(
        model,
        fast,
        guided("plain"),
        make_job("unguided"),
        guided("higher", height=128),
        guided("longer", prompt="x" * 80),
        guided("refined", refined=True, steps=6),
        guided("euler", scheduler="EulerAncestralDiscreteScheduler"),
        *[guided(name, loras=[(name, 0.7)]) for name in names],
        guided("several", loras=[(name, 0.5) for name in names[:3]]),
        guided("again", seed=3),
    )
    compiled = {name for name, picture in pictures.items() if picture.compiled}
    assert compiled == {"plain", "euler", "again", "several", *names}
    assert graphs() == before
    assert fast.names, "a call that would have been compiled gives its bucket up"


def test_weights_that_are_exchanged_in_place_are_used_and_compile_nothing(model: WatchedModel, fast: FastPath) -> None:
    job, before = guided("one"), graphs()
    pristine = drawn(model, fast, job)["one"].pixels
    weights = {name: value.clone() for name, value in model.base.unet.state_dict().items()}
    with torch.no_grad():
        for name, value in model.base.unet.named_parameters():
            value.copy_(weights[name] * 1.1)
    exchanged = drawn(model, fast, job)["one"]
    eager = drawn(model, fast, replace(job, compiled=False))["one"]
    with torch.no_grad():
        for name, value in model.base.unet.named_parameters():
            value.copy_(weights[name])
    assert (exchanged.compiled, eager.compiled) == (True, False)
    assert not np.array_equal(exchanged.pixels, pristine)
    assert np.abs(exchanged.pixels.astype(int) - eager.pixels).max() <= 1
    assert np.array_equal(drawn(model, fast, job)["one"].pixels, pristine)
    assert graphs() == before


def test_a_call_that_would_have_to_be_compiled_gives_its_bucket_up(model: WatchedModel) -> None:
    fast = fast_path(model, Compiler("aot_eager"))
    before, unet = graphs(), model.base.unet
    unet.conv_in.weight.data = unet.conv_in.weight.data.double().float().contiguous()
    assert drawn(model, fast, guided("other storage"))["other storage"].compiled
    unet.set_attention_slice("auto")
    try:
        [picture] = drawn(model, fast, guided("sliced")).values()
    finally:
        unet.set_attention_slice(None)
    assert not picture.reproducible
    assert (fast.names, graphs()) == ((), before)
