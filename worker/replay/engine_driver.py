"""Drive the engine from a single thread: feed it jobs, a bounded number at a time, and yield their results."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypeVar

from worker.delivery.stored_manifest import (
    applied_compilation,
    applied_method,
    applied_preset,
    applied_profile,
    applied_samples,
    applied_syntax,
)
from worker.engine_interface import Engine, EngineHooks, MakeEngine
from worker.failure import Failure
from worker.job import Job, effective_seed
from worker.picture import Picture
from worker.replay.plan import Item

T = TypeVar("T")

# Jobs in the engine at the same time: enough to fill its calls where pictures of several sizes alternate.
ROWS_AT_ONCE = 16


def make(make_engine: MakeEngine, entries: Iterator[Job | T], at_once: int) -> Iterator[Picture | Failure | T]:
    """Run the jobs among `entries` and yield their results in the order in which they end.

    Entries that are not jobs are yielded unchanged as soon as they are reached.

    Args:
        make_engine: called with the hooks when the first job is reached.
        at_once: the largest number of jobs in the engine at the same time.
    """
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
                # The engine is created only for the first job: without one, there may be no model.
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
    """Build the job that makes a stored picture again, from the recipe in its manifest."""
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
        preset=applied_preset(recipe),
        prompt_syntax=applied_syntax(recipe),
        call_samples=applied_samples(item.manifest),
        lora_method=applied_method(item.manifest),
        compiled=applied_compilation(item.manifest),
    )
