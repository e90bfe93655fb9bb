"""How many samples the UNet is called with: of one size for a picture, whatever else runs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.scenario import make_job
from worker.call_sizes import CallSizes
from worker.engine.loop import StepEngine
from worker.engine.pipeline import SdxlModel
from worker.engine.schedule.policy import Policy
from worker.engine.schedule.scheduler import StepScheduler
from worker.engine_interface import EngineHooks
from worker.job import Job
from worker.models.load import load_base

CPU = CallSizes("cpu", "float32")
GUIDED = 5.0


@pytest.fixture(scope="module")
def base(toy: Path) -> Any:
    return load_base(str(toy / "base"), dtype=torch.float32, device="cpu")


def calls(
    base: Any, monkeypatch: pytest.MonkeyPatch, jobs: list[Job], sizes: CallSizes | None
) -> dict[int, set[tuple[int, int]]]:
    """Draw the jobs together; the (samples, rows) of the UNet's calls by the height of their latents."""
    seen: dict[int, set[tuple[int, int]]] = defaultdict(set)
    forward, scheduler = base.unet.forward, StepScheduler(Policy() if sizes else Policy(rows_max=4))

    def watched(samples: torch.Tensor, *args: Any, **options: Any) -> Any:
        seen[samples.shape[-2]].add((samples.shape[0], len(scheduler._batch)))
        return forward(samples, *args, **options)

    monkeypatch.setattr(base.unet, "forward", watched)
    ended: list[object] = []
    hooks = EngineHooks(on_pixels=ended.append, on_failed=ended.append)
    engine = StepEngine(SdxlModel(base), scheduler, hooks, lambda: 0.0, calls=sizes)
    for job in jobs:
        engine.submit(job)
    while engine.tick():
        pass
    assert len(ended) == len(jobs)
    return seen


def several(guidance: float, height: int, count: int = 5) -> list[Job]:
    return [make_job(f"{guidance}-{height}-{n}", guidance=guidance, height=height, steps=n + 1) for n in range(count)]


@pytest.mark.parametrize("guidance", [GUIDED, 1.0])
def test_a_lone_picture_is_padded_to_no_more_than_itself_where_one_fills_a_call(
    base: Any, monkeypatch: pytest.MonkeyPatch, guidance: float
) -> None:
    samples = 2 if guidance == GUIDED else 1
    assert calls(base, monkeypatch, several(guidance, 256, 1), CPU) == {32: {(samples, 1)}}
    assert calls(base, monkeypatch, several(guidance, 256, 3), CPU) == {32: {(samples, 1)}}


def test_calls_of_small_pictures_have_one_size_for_any_number_of_rows(
    base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = calls(base, monkeypatch, several(GUIDED, 64), CPU)[8]
    assert {samples for samples, _ in seen} == {8}
    assert {rows for _, rows in seen} == {1, 2, 3, 4}
    assert {samples for samples, _ in calls(base, monkeypatch, several(1.0, 64), CPU)[8]} == {4}


def test_guided_rows_and_others_have_calls_of_their_own(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [make_job("a", guidance=GUIDED), make_job("b", guidance=GUIDED), make_job("c"), make_job("d")]
    assert calls(base, monkeypatch, jobs, CPU) == {8: {(8, 2), (4, 2)}}


def test_slots_pad_every_call_as_they_did(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [*several(GUIDED, 256, 2), *several(1.0, 64, 2)]
    assert calls(base, monkeypatch, jobs, replace(CPU, slots=4)) == {32: {(8, 2), (8, 1)}, 8: {(8, 2), (8, 1)}}


def test_a_picture_made_again_has_the_size_of_its_first_calls_and_shares_them_with_its_like(
    base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = [replace(job, call_samples=8) for job in several(GUIDED, 256, 2)]
    new = make_job("new", guidance=GUIDED, height=256)
    assert calls(base, monkeypatch, [*again, new], CPU) == {32: {(8, 2), (8, 1), (2, 1)}}


def test_without_sizes_a_call_has_what_its_rows_need(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = calls(base, monkeypatch, several(GUIDED, 64), None)[8]
    assert all(samples == 2 * rows for samples, rows in seen)
