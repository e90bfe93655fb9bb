"""The real engine, driven by one thread: jobs in, pictures out, a bounded number of them at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypeVar

from worker.delivery.manifest import applied_profile
from worker.job import Engine, EngineHooks, Failure, Job, MakeEngine, Picture, effective_seed
from worker.replay.plan import Item

T = TypeVar("T")


def make(make_engine: MakeEngine, entries: Iterator[Job | T], at_once: int) -> Iterator[Picture | Failure | T]:
    """What becomes of each job, in the order in which they end; entries that are no jobs pass through at once."""
    ended: deque[Picture | Failure] = deque()
    hooks = EngineHooks(on_pixels=ended.append, on_failed=ended.append)
    engine: Engine | None = None
    running, more = 0, True
    while more or running:
        while more and running < at_once:
            entry = next(entries, None)
            if entry is None:
                more = False
            elif isinstance(entry, Job):
                # Not before: where nothing is made, there may be no model.
                engine = engine or make_engine(hooks)
                engine.submit(entry)
                running += 1
            else:
                yield entry
        if engine is not None and running:
            engine.tick()
        while ended:
            running -= 1
            yield ended.popleft()


def job_of_manifest(item: Item, now: float, replay_id: str | None = None) -> Job:
    """The job that makes a stored picture again, by its recipe."""
    assert item.manifest is not None
    recipe, requested = item.manifest["recipe"], item.requested
    return Job(
        request=requested.request,
        lane=requested.lane,
        origin=requested.origin,
        seed=effective_seed(recipe["seed"]),
        loras=tuple((lora["name"], lora["weight"]) for lora in recipe["loras"]),
        prompt=recipe["prompt"],
        negative_prompt=recipe["negative_prompt"],
        attempt=1,
        requested_at=now,
        received_at=now,
        expires_at=None,
        headers=requested.headers,
        replay_id=replay_id,
        profile=applied_profile(recipe),
    )
