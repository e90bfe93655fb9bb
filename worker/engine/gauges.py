"""The metrics that are read, not counted. Called on another thread than the engine's: everything is looked at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from worker.engine.memory import Rung
from worker.engine.schedule import State
from worker.job import Lane
from worker.telemetry import metrics


def set_queue(depth: Mapping[tuple[Lane, State], int], oldest: Mapping[Lane, float], now: float) -> None:
    """Jobs by class and state, and the age of each class's oldest request (`oldest`: when it was made)."""
    for (lane, state), rows in depth.items():
        metrics.QUEUE.labels(lane.label, state.name.lower()).set(rows)
    for lane in Lane:
        metrics.OLDEST.labels(lane.label).set(now - oldest[lane] if lane in oldest else 0)


def set_memory(device: torch.device, rung: Rung) -> None:
    """The rung in use; on CUDA also what is free on the device, whoever uses the rest, and torch's own peak."""
    metrics.MEMORY_RUNG.set(rung)
    if device.type == "cuda":
        metrics.MEMORY.labels("free").set(torch.cuda.mem_get_info(device)[0])
        metrics.MEMORY.labels("peak").set(torch.cuda.max_memory_allocated(device))
