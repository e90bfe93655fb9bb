"""What a large LoRA costs those who are being drawn when it arrives, and what it costs per step.

`python -m devtools.bench.lora_arrival` draws with a UNet of SDXL's widths and fewer layers, on the CPU: a picture
without LoRAs is under way when a job with a LoRA of 228 MB is handed over. It prints the longest time between two
steps, and the time per step with the LoRA, both as parts of a step without: merged and read in a pool, and by hooks and
read on the engine's thread, as version 1.0 did.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from devtools.bench.jobs import call_sizes, job_of
from devtools.models.tiny import write_tiny
from worker.engine.denoise import Denoiser
from worker.engine.loop import StepEngine
from worker.engine.pipeline import SdxlModel
from worker.engine.schedule.policy import Policy
from worker.engine.schedule.scheduler import StepScheduler
from worker.engine_interface import EngineHooks
from worker.events.types import GenerationRequest
from worker.failure import Failure
from worker.job import Job
from worker.lora_method import LoraMethods, LoraMode
from worker.models.load import load_base
from worker.picture import Picture

FILE_BYTES = 228_000_000
SIDE_PX = 128
STEPS_BEFORE, STEPS_BARE, STEPS_WITH = 3, 14, 8
_WIDTHS = (320, 640, 1280)


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, in seconds of two clocks."""

    wall: float = field(default_factory=time.monotonic)
    thread: float = field(default_factory=time.thread_time)


def run() -> dict[str, Any]:
    """Measure both ways in one run."""
    with tempfile.TemporaryDirectory() as folder:
        base = _base(Path(folder))
        _write_lora(Path(folder) / "large.safetensors", base)
        measured = {}
        for name, mode, pooled in (("merged", LoraMode.MERGED, True), ("hooks", LoraMode.HOOKS, False)):
            model = SdxlModel(base, lora_dir=Path(folder), lora_methods=LoraMethods(mode))
            measured[name] = _measure(model, pooled=pooled)
            model.lora_cache.free()
            del model
            gc.collect()
        return measured


def _measure(model: SdxlModel, *, pooled: bool) -> dict[str, dict[str, float]]:
    """By the wall clock, and by the engine thread's own processor time, which other processes do not disturb."""
    ended: list[Picture | Failure] = []
    pool = ThreadPoolExecutor(1)

    def apart(_: Job, task: Callable[[], None]) -> None:
        if pooled:
            pool.submit(task)
        else:
            task()

    hooks = EngineHooks(on_pixels=ended.append, on_failed=ended.append, apart=apart)
    engine = StepEngine(model, StepScheduler(Policy()), hooks, time.time, calls=call_sizes(1))
    steps: list[tuple[Moment, Moment, bool]] = []
    step = Denoiser.step

    def timed(denoiser: Denoiser, rows: Any, samples: int | None) -> None:
        before = Moment()
        step(denoiser, rows, samples)
        steps.append((before, Moment(), bool(rows[0].job.loras)))

    engine.submit(_job(0, STEPS_BARE, ()))
    arrived = None
    with patch.object(Denoiser, "step", timed):
        while len(ended) < 2:
            if arrived is None and len(steps) == STEPS_BEFORE:
                arrived = Moment()
                engine.submit(_job(1, STEPS_WITH, (("large", 0.8),)))
            engine.tick()
    pool.shutdown()
    assert all(isinstance(each, Picture) for each in ended), ended
    assert arrived is not None
    return {
        clock: _figures(
            [(getattr(begin, clock), getattr(end, clock), is_with) for begin, end, is_with in steps],
            getattr(arrived, clock),
        )
        for clock in ("wall", "thread")
    }


def _figures(steps: list[tuple[float, float, bool]], arrived: float) -> dict[str, float]:
    bare = [end - begin for begin, end, with_lora in steps if not with_lora]
    with_lora = [end - begin for begin, end, is_with in steps if is_with]
    usual = statistics.median(bare)
    # A gap is from the end of one step to the end of the next, of the picture that was there before.
    others = [end for _, end, is_with in steps if not is_with and end > arrived]
    gaps = [later - earlier for earlier, later in zip([arrived, *others], others, strict=False)]
    turn = next(at for at, (_, _, is_with) in enumerate(steps) if is_with)
    return {
        "step_s": round(usual, 3),
        "longest_gap_in_steps": round(max(gaps) / usual, 2),
        "step_with_lora_by_step": round(statistics.median(with_lora[1:]) / usual, 3),
        "to_first_step_with_lora_in_steps": round((steps[turn][1] - steps[turn - 1][1]) / usual, 2),
    }


def _base(folder: Path) -> Any:
    """The toy pipeline around a UNet of some hundred million weights."""
    write_tiny(folder)
    base = load_base(str(folder / "base"), dtype=torch.float32, device="cpu")
    config = dict(base.unet.config) | {
        "block_out_channels": _WIDTHS,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (5, 10, 20),
        "norm_num_groups": 32,
    }
    torch.manual_seed(0)
    base.unet = UNet2DConditionModel.from_config(config).eval().requires_grad_(False)
    return base


def _write_lora(path: Path, base: Any) -> None:
    """A LoRA of `FILE_BYTES` in half precision for every layer of the attention blocks."""
    layers = {
        name: module
        for name, module in base.unet.named_modules()
        if isinstance(module, torch.nn.Linear) and "attentions" in name
    }
    per_rank = sum(module.in_features + module.out_features for module in layers.values()) * 2
    rank, tensors = FILE_BYTES // per_rank, {}
    for name, module in layers.items():
        tensors[f"unet.{name}.lora_A.weight"] = torch.randn(rank, module.in_features).half() / 100
        tensors[f"unet.{name}.lora_B.weight"] = torch.randn(module.out_features, rank).half() / 100
    save_file(tensors, path)


def _job(index: int, steps: int, loras: tuple[tuple[str, float], ...]) -> Job:
    request = GenerationRequest(
        job_id=f"job-{index}",
        girl_id="bench",
        user_id=0,
        prompt="a lighthouse",
        num_inference_steps=steps,
        guidance_scale=5.0,
        width=SIDE_PX,
        height=SIDE_PX,
    )
    return job_of(request, index, seed=index, loras=loras, at=time.time())


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
