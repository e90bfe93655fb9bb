"""How much memory a part of the run needs at its peak."""

from __future__ import annotations

import resource

import torch

_GB = 1e9


class Peak:
    """Measures the device memory from here on; for a device without counters, `gb` is None.

    Args:
        beside: bytes of the device that others hold in the meantime, and that are left out.
    """

    def __init__(self, device: torch.device, *, beside: int = 0) -> None:
        self._cuda = device.type == "cuda"
        self._device = device
        self._beside = beside
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def gb(self) -> float | None:
        """The largest memory that tensors had so far, in GB (10^9 bytes)."""
        return (torch.cuda.max_memory_allocated(self._device) - self._beside) / _GB if self._cuda else None


def allocated(device: torch.device) -> int:
    """Return the bytes of the device that tensors have now; 0 for a device without counters."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def process_peak_gb() -> float:
    """Return the largest resident memory that this process has had, in GB; Linux counts it in units of 1024 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GB
