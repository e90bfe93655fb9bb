"""Decide at the start whether there is a fast path, and make it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import structlog
import torch

from worker.call_sizes import CallSizes
from worker.engine.accelerator import accelerator_of
from worker.engine.compiled.compiler import Compiler, missing_tool, use_cache
from worker.engine.compiled.fast_path import FastPath, Plan
from worker.engine.compiled.warm_up import warm_up
from worker.engine.cost import Stage
from worker.engine.pipeline import SdxlModel
from worker.engine.trial import trial_job

# A prompt's guidance while buckets are checked: large enough that a wrong guidance is seen.
_GUIDANCE = 5.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Wish:
    """What the settings ask for.

    Args:
        mode: COMPILE, one of auto, on, off; `auto` means on CUDA only.
        cache: where compiled kernels are kept; None: see `use_cache`.
    """

    mode: str
    plan: Plan
    cache: Path | None = None


def is_wanted(mode: str, device: torch.device) -> bool:
    """Whether COMPILE asks for compiled steps on this device."""
    return mode == "on" or (mode == "auto" and device.type == "cuda")


def start_fast_path(
    model: SdxlModel, wish: Wish, calls: CallSizes | None, *, compiler: Compiler | None = None
) -> FastPath:
    """Return the fast path, warm and checked; an empty one where it is not wanted or not possible.

    Args:
        calls: the size of UNet calls; None: it varies, and no step has the shape of the last one.
    """
    if not is_wanted(wish.mode, model.device):
        return FastPath()
    reason = "DETERMINISTIC is off" if calls is None else _obstacle(model)
    if reason is not None or calls is None:
        _log.warning("not_compiled", reason=reason, hint="pictures are drawn eagerly")
        return FastPath()
    use_cache(wish.cache)
    stages = [Stage.BASE] if model.refiner is None else list(Stage)
    job = trial_job()
    fast = warm_up(
        model,
        wish.plan.groups(stages, calls, model.base.vae_scale_factor),
        replace(job, request=replace(job.request, guidance_scale=_GUIDANCE)),
        compiler=Compiler() if compiler is None else compiler,
        accelerator=accelerator_of(model.device),
    )
    # Its prompt is nobody's.
    model.forget_prompts()
    return fast


def _obstacle(model: SdxlModel) -> str | None:
    if model.refiner is not None and model.refiner_offload:
        return "REFINER_OFFLOAD moves the weights that a compiled step expects in their place"
    return missing_tool(model.device)
