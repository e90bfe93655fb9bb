"""What the lifecycle and an engine ask of each other; the tests and the simulation have engines of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from worker.errors import ErrorCode
from worker.failure import Failure
from worker.job import Job, Origin
from worker.picture import Picture

# By lane: how many rows of this lane and the more urgent ones an engine has a use for, those that it has included.
Room = tuple[int, int, int]


def _ignore(*_: object) -> None:
    """The default of hooks that nobody listens to."""


def _at_once(_: Job, task: Callable[[], None]) -> None:
    """The default where there is one thread only."""
    task()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHooks:
    """Callbacks of the engine; they are called on the engine's thread, so none of them may block.

    Args:
        on_progress: gets the job, its steps done and its steps in all.
        on_pixels: gets the finished picture.
        on_failed: gets a job that ended without one.
        on_released: gets a job that left without an outcome, with a checkpoint where one could be made.
        on_room: gets the engine's room at every tick; a job has left it when its pixels are there, or as it fails.
        apart: gets a job and a task of it that may take long, to be run on another thread; by default it runs at once.
    """

    on_progress: Callable[[Job, int, int], None] = _ignore
    on_pixels: Callable[[Picture], None]
    on_failed: Callable[[Failure], None]
    on_released: Callable[[Job], None] = _ignore
    on_room: Callable[[Room], None] = _ignore
    apart: Callable[[Job, Callable[[], None]], None] = _at_once


class Engine(Protocol):
    """What makes pictures. `tick`, `wait` and `report` belong to one thread; any thread may call the others."""

    def submit(self, job: Job) -> None:
        """Hand over a job whose start is durable."""

    def expect(self, jobs: Sequence[Job]) -> None:
        """Tell which jobs will be handed over next, in this order, so that their files can be read ahead."""

    def cancel(self, job_id: str, code: ErrorCode, message: str) -> None:
        """Fail a job before its next step; an unknown id is ignored."""

    def release(self, keep: Callable[[Origin], bool], *, started: bool) -> None:
        """Release jobs whose origin is not to be kept: those that have not started, or with `started` all of them."""

    def tick(self) -> bool:
        """Do one piece of work; False when there was nothing to do."""

    def wait(self, timeout_s: float) -> None:
        """Sleep until there is something to do, at most `timeout_s`."""

    def report(self, queued: Sequence[Job]) -> None:
        """Set the gauges of the engine and of the jobs that wait for their start."""


MakeEngine = Callable[[EngineHooks], Engine]
