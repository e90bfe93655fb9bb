"""How many requests a CPU second the policy and the view of the fleet can place, without Kafka: one thread."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime

from worker.dispatch.fleet import Fleet
from worker.dispatch.policy import Backlog, Request
from worker.events.types import LaneWork, Priority, WorkerReport, WorkPartition
from worker.job import Lane
from worker.topics import Topics

SHARES = (0.1, 0.3, 0.6)
LORAS = 200
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_TOPICS = Topics("", "work").requests
REPORTS_PER_CHOICE = 3


def choices_per_s(workers: int, seconds: float = 2.0, seed: int = 0) -> float:
    """Choices a CPU second for a fleet in which every choice brings three reports, as drawing a picture does."""
    fleet, backlog, draw = Fleet(dict(zip(Lane, _TOPICS, strict=True))), Backlog(), random.Random(seed)
    sequence = 0

    def report(worker: int, normal: int) -> None:
        nonlocal sequence
        sequence += 1
        places = tuple(
            WorkPartition(topic=topic, partition=2 * worker + half, position=sequence)
            for topic in _TOPICS
            for half in (0, 1)
        )
        work = (LaneWork(priority=Priority.NORMAL, requests=normal, seconds=3.0 * normal),)
        fleet.hear(
            WorkerReport(
                worker_id=f"worker-{worker}",
                session_id="s",
                sequence=sequence,
                picture_seconds=3.0,
                partitions=places,
                work=work,
                loras=(str(draw.randrange(LORAS)),),
                reported_at=_NOW,
            ),
            0.0,
        )

    for worker in range(workers):
        report(worker, draw.randrange(3))
    chosen, key, began = 0, 0, time.process_time()
    while time.process_time() - began < seconds:
        [lane] = draw.choices(tuple(Lane), SHARES)
        key += 1
        backlog.add(Request(key, lane, 0.0, loras=str(draw.randrange(LORAS))))
        for choice in backlog.choose(fleet.workers(0.0), 0.0):
            place = fleet.place_for(choice.worker.name, choice.request.lane)
            fleet.send(choice.request, place)
            fleet.written(choice.request.key, sequence)
            chosen += 1
        for _ in range(REPORTS_PER_CHOICE):
            report(draw.randrange(workers), draw.randrange(3))
    return chosen / (time.process_time() - began)
