"""Hypothesis strategies for the events, by the types of their fields."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any, get_type_hints

from hypothesis import strategies as st

from worker.errors import ErrorCode
from worker.events.types import (
    EVENT_TYPES,
    Event,
    JobEvent,
    JobStatus,
    LaneWork,
    Lora,
    OutputFormat,
    Priority,
    WorkerReport,
    WorkPartition,
    timestamp,
)

LONGS = {"user_id", "seed", "byte_count", "sequence"}
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
times = st.integers(0, 4_102_444_800_000).map(lambda millis: timestamp(millis / 1000))
doubles = st.floats(allow_nan=False)
ints = st.integers(-(2**31), 2**31 - 1)
loras = st.builds(Lora, name=texts, weight=doubles)
partitions = st.builds(WorkPartition, topic=texts, partition=ints, epoch=ints, position=ints)
lane_work = st.builds(LaneWork, priority=st.sampled_from(Priority), requests=ints, seconds=doubles)

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
SAMPLES: dict[type, Any] = {
    str: "text", int: 7, float: 0.5, bool: True, datetime: NOW, ErrorCode: ErrorCode.OUT_OF_MEMORY,
    JobStatus: JobStatus.RUNNING,
}  # fmt: skip


def _by_hint(name: str, hint: Any) -> st.SearchStrategy[Any]:
    bits = 63 if name in LONGS else 31
    integers = st.integers(-(2**bits), 2**bits - 1)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: texts, int: integers, float: doubles, bool: st.booleans(), datetime: times,
        tuple[Lora, ...]: st.lists(loras, max_size=3).map(tuple),
        tuple[WorkPartition, ...]: st.lists(partitions, max_size=3).map(tuple),
        tuple[LaneWork, ...]: st.lists(lane_work, max_size=3).map(tuple),
        tuple[str, ...]: st.lists(texts, max_size=3).map(tuple),
    }  # fmt: skip
    for enum in (Priority, OutputFormat, JobStatus, ErrorCode):
        simple[enum] = st.sampled_from(enum)
    for kind, strategy in tuple(simple.items()):
        simple[kind | None] = st.none() | strategy
    return simple.get(hint, st.dictionaries(texts, texts, max_size=3))


def event_of(cls: type[Event]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls)
    return st.builds(cls, **{name: _by_hint(name, hint) for name, hint in hints.items()})


events: st.SearchStrategy[Event] = st.one_of([event_of(cls) for cls in EVENT_TYPES])
job_events: st.SearchStrategy[JobEvent] = st.one_of([event_of(cls) for cls in EVENT_TYPES if cls is not WorkerReport])


def sample(cls: type[Event], **values: Any) -> Any:
    """An event with its required fields filled in, and `values`."""
    hints = get_type_hints(cls)
    required = {
        f.name: SAMPLES[hints[f.name]]
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    return cls(**(required | values))
