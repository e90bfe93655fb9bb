"""What the step scheduler knows of a row: its lane, the steps that it needs, and how long it has waited."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, auto

from worker.engine.cost import Group
from worker.job import Lane

Key = Hashable


class State(Enum):
    """Where a submitted row stands; a row that has left the scheduler has none."""

    WAITING = auto()
    ACTIVE = auto()
    PARKED = auto()


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of `steps` UNet steps in one group; a refined picture has two of them.

    `loras` is the set that must be merged into the weights; None for the base's own. Rows with different sets never
    share a step. A step takes the same time with any set.
    """

    group: Group
    steps: int
    loras: Hashable = None


@dataclass(slots=True, eq=False)
class QueuedRow:
    """A row as the step scheduler sees it."""

    key: Key
    lane: Lane
    segments: list[Segment]
    waiting_since: float | None
    waited: float = 0.0
    state: State = State.WAITING
    steps_done: int = 0

    @property
    def group(self) -> Group:
        return self.segments[0].group

    @property
    def loras(self) -> Hashable:
        return self.segments[0].loras

    @property
    def steps_left(self) -> int:
        """Steps that are left of its current segment."""
        return self.segments[0].steps - self.steps_done

    def fits(self, other: QueuedRow) -> bool:
        """Whether the two can share a step."""
        return self.group == other.group and self.loras == other.loras

    def wait(self, now: float) -> float:
        """Seconds spent out of the batch so far, parked time included."""
        return self.waited + (0.0 if self.waiting_since is None else now - self.waiting_since)

    def count_step(self) -> None:
        """Count one step, after which a segment may be done; without segments, the row has finished."""
        self.steps_done += 1
        if not self.steps_left:
            self.segments.pop(0)
            self.steps_done = 0

    def activate(self, now: float) -> None:
        """It is in the batch from now on."""
        if self.waiting_since is not None:
            self.waited += now - self.waiting_since
        self.state, self.waiting_since = State.ACTIVE, None

    def park(self, now: float) -> None:
        """It is not in the batch any more, and keeps its state."""
        self.state, self.waiting_since = State.PARKED, now
