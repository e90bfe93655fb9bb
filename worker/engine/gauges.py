"""Set the engine's gauges. Called on the engine's thread, a few times per second at most."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from worker.engine.memory import Rung
from worker.engine.schedule import State
from worker.job import Lane
from worker.telemetry import metrics


def set_queue(depth: Mapping[tuple[Lane, State], int], oldest: Mapping[Lane, float], now: float) -> None:
    """Set the number of jobs by lane and state, and the age of the oldest request in each lane.

    Args:
        oldest: time of the oldest request of each lane that has one, in seconds since the epoch.
    """
    for (lane, state), rows in depth.items():
        metrics.QUEUE.labels(lane.label, state.name.lower()).set(rows)
    for lane in Lane:
        metrics.OLDEST.labels(lane.label).set(now - oldest[lane] if lane in oldest else 0)


def set_memory(device: torch.device, rung: Rung) -> None:
    """Set the current rung and, on CUDA, the free memory of the whole device and the peak that torch allocated."""
    metrics.MEMORY_RUNG.set(rung)
    if device.type == "cuda":
        metrics.MEMORY.labels("free").set(torch.cuda.mem_get_info(device)[0])
        metrics.MEMORY.labels("peak").set(torch.cuda.max_memory_allocated(device))
