"""NVML readings, with a fake NVML because no test machine has a GPU."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from prometheus_client import REGISTRY

from worker.telemetry import gpu


class NVMLError(Exception):
    """pynvml's error."""


class Nvml:
    """One device, which can fall off the bus."""

    NVMLError = NVMLError

    def __init__(self, uuid: str, *, ecc: bool = True) -> None:
        self.uuid = uuid
        self.lost = False
        self.ecc = ecc

    def nvmlInit(self) -> None:
        """Nothing to start."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != f"GPU-{self.uuid}":
            raise NVMLError("not found")
        return uuid

    def nvmlDeviceGetMemoryInfo(self, _handle: str) -> Any:
        if self.lost:
            raise NVMLError("lost")
        return SimpleNamespace(used=3_000, total=24_000)

    def nvmlDeviceGetUtilizationRates(self, _handle: str) -> Any:
        if self.lost:
            raise NVMLError("lost")
        return SimpleNamespace(gpu=87)

    def nvmlDeviceGetTotalEccErrors(self, _handle: str, error_type: int, counter_type: int) -> int:
        if self.lost or not self.ecc:
            raise NVMLError("not supported")
        assert (error_type, counter_type) == (1, 0)
        return 2


def read(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_readings_are_taken_when_scraped() -> None:
    nvml = Nvml("abc")
    assert gpu.watch("abc", nvml)
    assert read("sdxl_worker_gpu_utilization_ratio", gpu="abc") == 0.87
    assert read("sdxl_worker_gpu_memory_bytes", kind="used") == 3_000
    assert read("sdxl_worker_gpu_memory_bytes", kind="total") == 24_000
    assert read("sdxl_worker_gpu_uncorrected_errors", gpu="abc") == 2
    assert read("sdxl_worker_gpu_answers", gpu="abc") == 1
    nvml.lost = True
    assert read("sdxl_worker_gpu_answers", gpu="abc") == 0
    lost = read("sdxl_worker_gpu_utilization_ratio", gpu="abc")
    assert lost is not None
    assert math.isnan(lost)


def test_a_card_without_ecc_has_no_count_of_errors() -> None:
    assert gpu.watch("geforce", Nvml("geforce", ecc=False))
    assert read("sdxl_worker_gpu_uncorrected_errors", gpu="geforce") is None
    assert read("sdxl_worker_gpu_answers", gpu="geforce") == 1


def test_an_unknown_device_is_no_reason_to_fail() -> None:
    assert not gpu.watch("xyz", Nvml("abc"))


def test_no_driver_is_no_reason_to_fail() -> None:
    assert not gpu.watch("abc")
