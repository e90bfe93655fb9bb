"""A worker with a fake NVML, so that the GPU panels have data on a machine without a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from worker.__main__ import main
from worker.telemetry import gpu


class StandInNvml:
    """What `worker.telemetry.gpu` asks of pynvml, with made-up answers."""

    NVMLError = RuntimeError

    def nvmlInit(self) -> None:
        """Nothing to start."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetMemoryInfo(self, _handle: str) -> Any:
        return SimpleNamespace(used=11_500_000_000, total=24_000_000_000)

    def nvmlDeviceGetUtilizationRates(self, _handle: str) -> Any:
        return SimpleNamespace(gpu=93)

    def nvmlDeviceGetTotalEccErrors(self, _handle: str, _error_type: int, _counter_type: int) -> int:
        return 0


if __name__ == "__main__":
    gpu.watch("stand-in", StandInNvml())
    main()
