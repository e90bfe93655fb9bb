"""Counts of pictures and failures by day, lane, girl and user. Pure, mergeable, and of bounded size.

A job counts once as a picture and once as a failure: the first of several such results is taken. Prompts are not looked
at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from worker.events.types import GenerationCompleted, GenerationFailed
from worker.report.guide import BOUNDS_S
from worker.report.waits import Waits

# Further girls and users are counted together.
MAX_KEYS = 20_000
OTHERS = "(others)"
# Job ids that are remembered by one process, some 60 bytes each.
MAX_REMEMBERED = 2_000_000
DIMENSIONS = ("day", "lane", "girl", "user")


@dataclass(slots=True)
class Cell:
    """The sums of one group.

    Args:
        late: pictures whose job waited longer than its lane's bound.
        unpriced: pictures whose cost is not known.
    """

    pictures: int = 0
    failures: int = 0
    late: int = 0
    gpu_seconds: float = 0.0
    cost_usd: float = 0.0
    unpriced: int = 0

    def merge(self, other: Cell) -> None:
        """Add another's sums."""
        self.pictures += other.pictures
        self.failures += other.failures
        self.late += other.late
        self.gpu_seconds += other.gpu_seconds
        self.cost_usd += other.cost_usd
        self.unpriced += other.unpriced

    @property
    def usd_per_picture(self) -> float | None:
        """Over the pictures whose cost is known; None where there is none."""
        priced = self.pictures - self.unpriced
        return self.cost_usd / priced if priced > 0 else None


@dataclass(slots=True)
class Tally:
    """All counts.

    Args:
        begins: by topic, the time of the oldest record of a partition that has lost older ones.
        since, until: the window of `completed_at` and `failed_at`; None is open, the end is exclusive.
        hourly_usd: the device's price in dollars an hour, for pictures whose event tells no cost.
    """

    since: datetime | None = None
    until: datetime | None = None
    hourly_usd: float | None = None
    total: Cell = field(default_factory=Cell)
    cells: dict[str, dict[str, Cell]] = field(default_factory=lambda: {name: {} for name in DIMENSIONS})
    day_lane: dict[tuple[str, str], Cell] = field(default_factory=dict)
    waits: dict[str, Waits] = field(default_factory=dict)
    day_waits: dict[tuple[str, str], Waits] = field(default_factory=dict)
    begins: dict[str, datetime] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    records: int = 0
    repeats: int = 0
    replayed: int = 0
    undecodable: int = 0
    outside: int = 0
    unchecked: int = 0
    _seen: set[int] = field(default_factory=set)

    def begins_at(self, topic: str, at: datetime) -> None:
        """A partition's oldest record is of that time, and older ones have expired."""
        self.begins[topic] = max(at, self.begins.get(topic, at))

    def add(self, event: GenerationCompleted | GenerationFailed) -> None:
        """Count one result."""
        self.records += 1
        if event.replay_id is not None:
            self.replayed += 1
            return
        at = event.completed_at if isinstance(event, GenerationCompleted) else event.failed_at
        if (self.since is not None and at < self.since) or (self.until is not None and at >= self.until):
            self.outside += 1
            return
        if not self._is_first(event):
            self.repeats += 1
            return
        day, lane = at.astimezone(UTC).date().isoformat(), event.priority.value
        cells = [
            self.total,
            self._cell("day", day),
            self._cell("lane", lane),
            self._cell("girl", event.girl_id or "(none)"),
            self._cell("user", str(event.user_id)),
            self.day_lane.setdefault((day, lane), Cell()),
        ]
        if isinstance(event, GenerationFailed):
            self.codes[event.error_code.value] += 1
            for cell in cells:
                cell.failures += 1
            return
        self._count_picture(event, cells, day, lane)

    def _count_picture(self, event: GenerationCompleted, cells: list[Cell], day: str, lane: str) -> None:
        cost = event.cost_usd
        if cost is None and self.hourly_usd is not None:
            cost = event.gpu_seconds * self.hourly_usd / 3600
        late = event.queue_time > BOUNDS_S.get(lane, float("inf"))
        for cell in cells:
            cell.pictures += 1
            cell.late += late
            cell.gpu_seconds += event.gpu_seconds
            cell.cost_usd += cost or 0.0
            cell.unpriced += cost is None
        self.waits.setdefault(lane, Waits()).add(event.queue_time)
        self.day_waits.setdefault((day, lane), Waits()).add(event.queue_time)

    def merge(self, other: Tally) -> None:
        """Add the counts of other partitions."""
        self.total.merge(other.total)
        for name, cells in other.cells.items():
            for key, cell in cells.items():
                self._cell(name, key).merge(cell)
        for pair, cell in other.day_lane.items():
            self.day_lane.setdefault(pair, Cell()).merge(cell)
        for lane, waits in other.waits.items():
            self.waits.setdefault(lane, Waits()).merge(waits)
        for pair, waits in other.day_waits.items():
            self.day_waits.setdefault(pair, Waits()).merge(waits)
        for topic, at in other.begins.items():
            self.begins_at(topic, at)
        self.codes.update(other.codes)
        self.records += other.records
        self.repeats += other.repeats
        self.replayed += other.replayed
        self.undecodable += other.undecodable
        self.outside += other.outside
        self.unchecked += other.unchecked

    def _cell(self, dimension: str, key: str) -> Cell:
        cells = self.cells[dimension]
        found = cells.get(key)
        if found is None:
            # Days are bounded too: a worker's clock may be anywhere.
            found = cells.setdefault(key if len(cells) < MAX_KEYS else OTHERS, Cell())
        return found

    def _is_first(self, event: GenerationCompleted | GenerationFailed) -> bool:
        mark = hash((event.job_id, isinstance(event, GenerationCompleted)))
        if mark in self._seen:
            return False
        if len(self._seen) < MAX_REMEMBERED:
            self._seen.add(mark)
        else:
            self.unchecked += 1
        return True
