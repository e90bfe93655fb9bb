"""GPU utilisation and memory from NVML: the use by all processes on the device. Read at each scrape."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import structlog

from worker.telemetry import metrics

_log = structlog.get_logger()


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
    metrics.MEMORY.labels("used").set_function(used)
    metrics.MEMORY.labels("total").set_function(total)
    return True
