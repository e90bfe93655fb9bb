"""The GPU: whether torch can use it, its driver and its memory. No weights are loaded."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from worker.doctor.finding import Finding, failed, ok, skipped, warning
from worker.doctor.model import weights_bytes
from worker.settings import Settings

# What a picture of 1024 × 1024 needs beside the weights (docs/runbook.md, CUDA out of memory).
_WORKING_BYTES = 3e9
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
    total, free = float(properties.total_memory), _free_bytes(str(properties.uuid))
    weights = weights_bytes(settings)
    text = f"{total / 1e9:.1f} GB" + ("" if free is None else f", {free / 1e9:.1f} GB of it free")
    if weights is None:
        yield ok("gpu memory", f"{text}; how much the models need is not known, since they are not all here")
        return
    needed = weights + _WORKING_BYTES
    text += f"; weights {weights / 1e9:.1f} GB, about {_WORKING_BYTES / 1e9:.0f} GB more for a picture"
    if total < needed:
        yield failed("gpu memory", text, "use REFINER_OFFLOAD=true, SDXL_REFINER_ID=none or a larger card")
    elif free is not None and free < needed:
        yield warning("gpu memory", text, "something else uses this card, perhaps a worker that runs; see nvidia-smi")
    else:
        yield ok("gpu memory", text)


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
