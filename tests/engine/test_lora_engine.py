"""LoRAs through the engine: from intake to the picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from devtools.bench.jobs import call_sizes
from tests.engine.lora_files import (
    TEXT,
    hooks_of,
    set_adapters,
    write_kohya,
    write_peft,
)
from worker.engine.cost import Stage
from worker.engine.denoise import Denoiser
from worker.engine.loop import StepEngine
from worker.engine.lora.cache import Loras
from worker.engine.pipeline import SdxlModel
from worker.engine.row import Row
from worker.engine.schedule.policy import Policy
from worker.engine.schedule.scheduler import StepScheduler
from worker.engine_interface import EngineHooks
from worker.errors import ErrorCode
from worker.events.types import GenerationRequest
from worker.failure import Failure
from worker.job import Job, Lane, Origin
from worker.models.load import load_base, load_refiner
from worker.picture import Picture

# PEFT, of every second adapter.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Already found a `peft_config`")]

SLOTS = 4
STEPS = 4
SIDE_PX = 64


def test_pictures_do_not_depend_on_the_loras_beside_them(toy: Path, folder: Path) -> None:
    model = _model(toy, folder)
    jobs = [
        _job("both", [("one", 0.8), ("two", 0.5)], guidance=3.0),
        _job("none", [], guidance=1.0),
        _job("one", [("one", -1.0)], guidance=5.0),
        _job("two", [("two", 1.0)], guidance=1.0, refined=True),
    ]
    together = _draw(model, jobs)
    for job in jobs:
        alone = _draw(model, [job])
        assert torch.equal(together[job.job_id], alone[job.job_id])
    bare = _draw(model, [_job("both", [], guidance=3.0)])
    assert not torch.equal(bare["both"], together["both"])
    assert hooks_of(model.base.unet) == 0
    assert model.lora_cache.loaded == 2
    model.lora_cache.free()
    assert model.lora_cache.loaded == 0, "every row has released its LoRAs"


def test_a_job_alone_equals_diffusers_own_pipeline(toy: Path, folder: Path, reference: Any) -> None:
    model = _model(toy, folder)
    loras = [("one", 0.8), ("two", 0.5)]
    job = _job("both", loras, guidance=3.0)
    for name, _ in loras:
        reference.load_lora_weights(folder / f"{name}.safetensors", adapter_name=name)
    set_adapters(reference, loras)
    row = model.prepare(job, 0.0)
    _denoise([row], Denoiser(model.base.unet, model.lora_cache))
    reference.scheduler = row.sampler.scheduler.from_config(row.sampler.scheduler.config)
    theirs = reference(
        job.prompt,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        width=SIDE_PX,
        height=SIDE_PX,
        generator=torch.Generator().manual_seed(job.seed),
        output_type="latent",
    ).images
    assert torch.allclose(row.latents, theirs, atol=1e-4, rtol=1e-4)


def test_an_unknown_lora_fails_its_job_alone(toy: Path, folder: Path) -> None:
    model = _model(toy, folder)
    ended = _run(model, [_job("bad", [("one", 1.0), ("nowhere", 1.0)]), _job("good", [("one", 1.0)])])
    assert isinstance(ended["good"], Picture)
    failure = ended["bad"]
    assert isinstance(failure, Failure)
    assert failure.code is ErrorCode.UNKNOWN_LORA
    assert failure.message.startswith("LoRA nowhere: ")


def test_a_file_that_goes_after_it_was_read_is_not_missed(toy: Path, folder: Path) -> None:
    model = _model(toy, folder)
    engine, ended = _engine(model)
    engine.submit(_job("one", [("one", 1.0)]))
    engine._inbox.run()
    model.lora_cache.free()
    (folder / "one.safetensors").unlink()
    while engine.tick():
        pass
    assert isinstance(ended["one"], Picture)


def test_cancelled_and_given_back_rows_release_their_loras(toy: Path, folder: Path) -> None:
    model = _model(toy, folder)
    engine, _ = _engine(model)
    for name in ("one", "two"):
        engine.submit(_job(name, [(name, 1.0)]))
    engine.tick()
    model.lora_cache.free()
    assert model.lora_cache.loaded == 2
    engine.cancel("one", ErrorCode.CANCELLED, "cancelled")
    engine.release(lambda _: False, started=True)
    engine.tick()
    model.lora_cache.free()
    assert model.lora_cache.loaded == 0


def _model(toy: Path, folder: Path) -> SdxlModel:
    base = load_base(str(toy / "base"), dtype=torch.float32, device="cpu")
    refiner = load_refiner(str(toy / "refiner"), dtype=torch.float32, device="cpu", share=base)
    write_peft(folder / "one.safetensors", base, seed=1, text=TEXT)
    write_kohya(folder / "two.safetensors", base, seed=2, rank=8, text=TEXT[1:])
    return SdxlModel(base, refiner, lora_dir=folder)


def _job(job_id: str, loras: Loras, *, guidance: float = 1.0, refined: bool = False) -> Job:
    request = GenerationRequest(
        job_id=job_id,
        girl_id="girl",
        user_id=1,
        prompt="a cat",
        num_inference_steps=STEPS * (3 if refined else 1),
        guidance_scale=guidance,
        high_quality=refined,
        width=SIDE_PX,
        height=SIDE_PX,
    )
    return Job(
        request=request,
        lane=Lane.NORMAL,
        origin=Origin("topic", 0, sum(job_id.encode()), 0),
        seed=7,
        loras=tuple(loras),
        prompt=request.prompt,
        negative_prompt=None,
        attempt=1,
        requested_at=0.0,
        received_at=0.0,
        expires_at=None,
    )


def _engine(model: SdxlModel) -> tuple[StepEngine, dict[str, Picture | Failure]]:
    ended: dict[str, Picture | Failure] = {}

    def end(result: Picture | Failure) -> None:
        ended[result.job.job_id if isinstance(result, Picture) else result.request.job_id] = result

    hooks = EngineHooks(on_pixels=end, on_failed=end)
    clock = count(0.0, 0.001).__next__
    return StepEngine(model, StepScheduler(Policy()), hooks, clock, calls=call_sizes(SLOTS)), ended


def _run(model: SdxlModel, jobs: Sequence[Job]) -> dict[str, Picture | Failure]:
    engine, ended = _engine(model)
    for job in jobs:
        engine.submit(job)
    while engine.tick():
        pass
    return ended


def _draw(model: SdxlModel, jobs: Sequence[Job]) -> dict[str, torch.Tensor]:
    pictures = {}
    for job_id, result in _run(model, jobs).items():
        assert isinstance(result, Picture), result
        pictures[job_id] = torch.from_numpy(result.pixels)
    return pictures


def _denoise(rows: list[Row], denoiser: Denoiser) -> None:
    assert all(row.stage is Stage.BASE for row in rows)
    with torch.inference_mode():
        while not rows[0].sampler.over:
            denoiser.step(rows, None)
