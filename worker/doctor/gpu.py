"""The GPU: whether torch can use it, its driver and its memory. No weights are loaded."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from typing import Any

from worker.doctor.finding import Finding, failed, ok, skipped, warning
from worker.errors import ModelLoadError
from worker.memory_plan.asked import models_of, wishes_of
from worker.memory_plan.cards import Card
from worker.memory_plan.cures import cure
from worker.memory_plan.plan import make_plan
from worker.memory_plan.refusal import too_small
from worker.memory_plan.show import decode_of
from worker.settings import Settings

# The oldest compute capability with bfloat16 of its own (Ampere).
_BFLOAT16_FROM = 8
_LARGER = "use a larger card"
_SLOW = "a picture of full size takes minutes on a CPU; use a machine with a GPU for production"


def check(settings: Settings) -> Iterator[Finding]:
    """Look at the device that DEVICE names."""
    import torch

    from worker.models.cuda import cuda_trouble, look_at_machine

    machine = look_at_machine()
    if machine.driver is not None:
        yield ok("driver", f"NVIDIA {machine.driver}; this torch is built for CUDA {torch.version.cuda}")
    else:
        yield skipped("driver", "there is no NVIDIA driver")
    if settings.device in ("cpu", "mps"):
        yield _without_cuda(settings.device, torch)
        return
    index = int(settings.device.partition(":")[2] or 0)
    trouble = cuda_trouble(index)
    if trouble is not None:
        yield failed("gpu", *_split(trouble))
    elif torch.cuda.is_available():
        yield from _device(settings, torch, index)
    elif settings.device == "auto":
        yield _without_cuda("mps" if torch.backends.mps.is_available() else "cpu", torch)
    else:
        yield failed("gpu", f"DEVICE is {settings.device}, and torch sees no GPU", "set DEVICE=auto, or add a GPU")


def _split(trouble: str) -> tuple[str, str]:
    what, colon, cure = trouble.rpartition(": ")
    return (what, cure) if colon else (trouble, "see the runbook, GPU not detected")


def _without_cuda(device: str, torch: Any) -> Finding:
    if device == "mps":
        if torch.backends.mps.is_available():
            return ok("gpu", "Apple's (mps)")
        return failed("gpu", "DEVICE is mps, which is not available here", "set DEVICE=auto")
    return warning("gpu", "none: the worker computes on the CPU", _SLOW)


def _device(settings: Settings, torch: Any, index: int) -> Iterator[Finding]:
    count = torch.cuda.device_count()
    if index >= count:
        yield failed("gpu", f"DEVICE is {settings.device}, and torch sees {count} GPUs", "set a lower number")
        return
    properties = torch.cuda.get_device_properties(index)
    yield ok("gpu", f"{properties.name}, compute capability {properties.major}.{properties.minor}, cuda:{index}")
    yield _memory(settings, properties)


def _memory(settings: Settings, properties: Any) -> Finding:
    """Compare what the settings need with the card's memory, and with what others have left of it."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    auto = "bfloat16" if properties.major >= _BFLOAT16_FROM else "float16"
    dtype = auto if settings.dtype == "auto" else settings.dtype
    card = Card.measured(properties.name, properties.total_memory, auto)
    try:
        models, wishes = models_of(settings, dtype), wishes_of(settings, dtype)
    except (ModelLoadError, OSError):
        return skipped("gpu memory", "a model cannot be read, so what it needs is not known")
    plan, free = make_plan(models, wishes, card), _free_bytes(str(properties.uuid))
    if not plan.fits:
        settings_that_fit = cure(models, wishes, plan)
        return failed("gpu memory", too_small(plan), f"set {settings_that_fit}" if settings_that_fit else _LARGER)
    text = f"{card.total / 1e9:.1f} GB" + ("" if free is None else f", {free / 1e9:.1f} GB of it free")
    text += f"; the worker needs about {plan.total / 1e9:.1f}, {plan.weights / 1e9:.1f} of it for weights"
    text += f"; pictures are decoded {decode_of(plan)}"
    if models.base.assumed:
        text += "; reckoned with SDXL's own sizes, since the models are not here"
    if free is not None and free < plan.needed:
        return warning("gpu memory", text, "something else uses this card, perhaps a worker that runs; see nvidia-smi")
    if plan.is_tight:
        return warning("gpu memory", f"{text}, which is tight", "sdxl-worker memory shows what it is used for")
    return ok("gpu memory", text)


def _free_bytes(uuid: str) -> float | None:
    """Asked of NVML: torch would first take half a gigabyte of the card for itself."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        return float(nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")).free)
    except (ImportError, OSError):
        return None
    except nvml.NVMLError:
        return None
