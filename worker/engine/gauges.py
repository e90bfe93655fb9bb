"""Set the engine's gauges. Called on the engine's thread, a few times per second at most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from worker.engine.memory import Rung
from worker.engine.schedule.rows import State
from worker.job import Job, Lane
from worker.telemetry import metrics


def set_queue(
    depth: Mapping[tuple[Lane, State], int], queued: Sequence[Job], not_begun: Sequence[Job], now: float
) -> None:
    """Set the number of jobs by lane and state, and the age of the oldest request in each lane.

    Args:
        queued: jobs whose start is not recorded yet.
        not_begun: jobs in the engine that have had no step.
    """
    for (lane, state), rows in depth.items():
        metrics.QUEUE.labels(lane.label, state.name.lower()).set(rows)
    for lane in Lane:
        metrics.QUEUE.labels(lane.label, "queued").set(sum(job.lane is lane for job in queued))
        ages = [now - job.requested_at for job in (*queued, *not_begun) if job.lane is lane]
        metrics.OLDEST.labels(lane.label).set(max(ages, default=0))


def set_memory(device: torch.device, rung: Rung) -> None:
    """Set the current rung and, on CUDA, the free memory of the whole device and the peak that torch allocated."""
    metrics.MEMORY_RUNG.set(rung)
    if device.type == "cuda":
        metrics.MEMORY.labels("free").set(torch.cuda.mem_get_info(device)[0])
        metrics.MEMORY.labels("peak").set(torch.cuda.max_memory_allocated(device))
