"""Offloading: only one of the base's UNet and the refiner is on the device at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.scenario import make_job, stage
from worker.engine import offload
from worker.engine.cost import Stage
from worker.engine.offload import Held, Offload
from worker.engine.pipeline import SdxlModel
from worker.job import Lane
from worker.models.load import load_base, load_refiner

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
JOBS = (
    make_job("refined", steps=8, refined=True, guidance=5.0, seed=1),
    make_job("plain", steps=12, seed=2),
    make_job(
        "straight to the refiner", steps=1, refined=True, seed=3, lane=Lane.HIGH, scheduler="EulerDiscreteScheduler"
    ),
)


@pytest.fixture(params=[True, False], ids=["shared text encoder", "own text encoder"])
def pipelines(toy: Path, request: pytest.FixtureRequest) -> tuple[Any, Any]:
    base = load_base(str(toy / "base"), dtype=torch.float32, device="cpu")
    share = base if request.param else None
    return base, load_refiner(str(toy / "refiner"), dtype=torch.float32, device="cpu", share=share)


def test_pictures_are_the_same_as_with_both_on_the_device(pipelines: tuple[Any, Any]) -> None:
    both = stage(SdxlModel(*pipelines)).run(*JOBS).pictures
    turns = stage(SdxlModel(*pipelines, refiner_offload=True)).run(*JOBS).pictures
    assert set(both) == set(turns) == {job.job_id for job in JOBS}
    for job_id, picture in turns.items():
        assert np.array_equal(picture.pixels, both[job_id].pixels)


def test_one_stage_at_a_time_is_on_the_device(pipelines: tuple[Any, Any]) -> None:
    base, refiner = pipelines
    model = SdxlModel(base, refiner, refiner_offload=True)
    home = {stage: _places(model.unet(stage)) for stage in Stage}
    encoder = _places(refiner.text_encoder_2)
    model.bring(Stage.BASE)
    assert _places(base.unet).isdisjoint(home[Stage.BASE])
    assert _places(refiner.unet) == home[Stage.REFINER]
    model.bring(Stage.REFINER)
    assert _places(base.unet) == home[Stage.BASE]
    assert _places(refiner.unet).isdisjoint(home[Stage.REFINER])
    # A text encoder of the refiner's own comes along; a shared one stays, for the base needs it too.
    shared = refiner.text_encoder_2 is base.text_encoder_2
    assert (_places(refiner.text_encoder_2) == encoder) is shared
    there = _places(refiner.unet)
    model.bring(Stage.REFINER)
    assert _places(refiner.unet) == there, "bringing what is there copies nothing"


def test_memory_that_runs_out_half_way_leaves_a_stage_that_can_be_brought_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modules = {stage: torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)) for stage in Stage}
    host = {stage: _places(module) for stage, module in modules.items()}
    turns = Offload({stage: [module] for stage, module in modules.items()}, CPU)
    turns.bring(Stage.BASE)
    enter, failures = offload._enter, [1]

    def fail_once(held: Held, device: torch.device) -> None:
        if failures:
            failures.pop()
            enter(held[:2], device)
            raise torch.OutOfMemoryError
        enter(held, device)

    monkeypatch.setattr(offload, "_enter", fail_once)
    with pytest.raises(torch.OutOfMemoryError):
        turns.bring(Stage.REFINER)
    assert {stage: _places(module) for stage, module in modules.items()} == host
    turns.bring(Stage.REFINER)
    assert _places(modules[Stage.REFINER]).isdisjoint(host[Stage.REFINER])


def test_a_lack_of_memory_while_stages_change_costs_no_picture(
    pipelines: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = stage(SdxlModel(*pipelines)).run(*JOBS).pictures
    calls = 0
    enter = offload._enter

    def fail_twice(held: Held, device: torch.device) -> None:
        nonlocal calls
        calls += 1
        if calls in (2, 5):
            raise torch.OutOfMemoryError
        enter(held, device)

    monkeypatch.setattr(offload, "_enter", fail_twice)
    play = stage(SdxlModel(*pipelines, refiner_offload=True)).run(*JOBS)
    assert play.failures == {}
    assert calls > 5
    for job_id, picture in play.pictures.items():
        assert np.abs(picture.pixels.astype(int) - clean[job_id].pixels).max() <= 2


def _places(module: Any) -> set[int]:
    return {tensor.data_ptr() for tensor in module.parameters()}
