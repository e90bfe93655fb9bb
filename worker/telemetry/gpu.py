"""GPU utilisation, memory and errors from NVML, of all processes on the device. Read at each scrape."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import structlog

from worker.telemetry import metrics

_log = structlog.get_logger()

# NVML_MEMORY_ERROR_TYPE_UNCORRECTED and NVML_VOLATILE_ECC of nvml.h.
_UNCORRECTED = 1
_SINCE_DRIVER_LOADED = 0


def note_visible(count: int) -> None:
    """Say it where the process sees more GPUs than the one that it uses: `docker run --gpus all` gives it all."""
    metrics.GPUS_UNUSED.set(max(count - 1, 0))
    if count > 1:
        _log.warning(
            "gpus_unused",
            visible=count,
            unused=count - 1,
            hint="a worker uses one GPU; `run --gpus all` starts one for each",
        )


def watch(uuid: str, nvml: Any = None) -> bool:
    """Export utilisation and memory of the device with this UUID (without `GPU-`, as torch reports it).

    Args:
        nvml: replaces `pynvml` in tests.

    Returns:
        False if NVML is not available; a worker must not fail because a gauge is missing.
    """
    try:
        if nvml is None:
            nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except (ImportError, OSError) as error:
        _log.warning("nvml_missing", error=str(error))
        return False
    except nvml.NVMLError as error:
        _log.warning("nvml_missing", error=str(error))
        return False

    def reading(value: Callable[[], float]) -> Callable[[], float]:
        def read() -> float:
            try:
                return value()
            except nvml.NVMLError:
                # A device that fell off the bus must not make the whole scrape fail.
                return float("nan")

        return read

    used = reading(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used)
    total = reading(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total)
    busy = reading(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
    metrics.GPU_BUSY.labels(uuid).set_function(busy)
    metrics.GPU_ANSWERS.labels(uuid).set_function(lambda: not math.isnan(used()))
    _watch_memory_errors(uuid, nvml, handle, reading)
    metrics.MEMORY.labels("used").set_function(used)
    metrics.MEMORY.labels("total").set_function(total)
    return True


def _watch_memory_errors(uuid: str, nvml: Any, handle: Any, reading: Callable[..., Callable[[], float]]) -> None:
    """Export the count of uncorrected errors, where the device counts them: GeForce cards have no ECC."""

    def count() -> float:
        return float(nvml.nvmlDeviceGetTotalEccErrors(handle, _UNCORRECTED, _SINCE_DRIVER_LOADED))

    try:
        count()
    except nvml.NVMLError:
        return
    metrics.GPU_MEMORY_ERRORS.labels(uuid).set_function(reading(count))
