"""`bench trace`: an urgent job arrives at a full batch of normal ones; lists the jobs of every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from devtools.bench.schedule.model import Prices
from devtools.bench.schedule.policies import OURS, make
from devtools.bench.schedule.prices import bounds
from devtools.bench.schedule.simulate import Simulation, Step
from devtools.bench.schedule.traffic import Arrival
from worker.job import Lane

NORMALS = 5
# The urgent job arrives during the tenth step, so the earliest step that it can join is the next one.
_COMES_AT_STEPS = 9.4


@dataclass(frozen=True, slots=True)
class Story:
    """All steps in order, the arrival of the urgent job, and its first step."""

    steps: list[Step]
    came: float
    started: float
    step_s: float

    @property
    def steps_between(self) -> int:
        """The number of steps that began without the urgent job after it had arrived."""
        return sum(self.came < step.at / self.step_s < self.started for step in self.steps)


def tell(base: Any, prices: Prices, slots: int) -> Story:
    """Run the trace with the real engine and UNet and our policy, in virtual time."""
    normals = [Arrival(0.0, Lane.NORMAL)] * NORMALS
    start = NORMALS * prices.accept + slots * prices.prepare
    came = start + _COMES_AT_STEPS * prices.step
    scheduler = make(OURS, bounds(prices.step))
    arrivals = [*normals, Arrival(came, Lane.URGENT)]
    run = Simulation(base, scheduler, prices, arrivals, slots=slots, real=True).run()
    urgent = next(visit for visit in run.visits if visit.lane is Lane.URGENT)
    assert urgent.started is not None
    return Story(run.steps, came / prices.step, urgent.started / prices.step, prices.step)


def lines(story: Story) -> list[str]:
    """Format the trace as lines of text; steps with the same jobs as the one before are omitted."""
    told = []
    previous: tuple[str, ...] = ()
    arrived = False
    for index, step in enumerate(story.steps, start=1):
        at = step.at / story.step_s
        if not arrived and at > story.came:
            told.append(f"t={story.came:7.2f}  the urgent job arrives, in the middle of step {index - 1}")
            arrived = True
        if step.names != previous:
            told.append(f"t={at:7.2f}  step {index:3}  {_change(step.names, previous)}")
        previous = step.names
    wait = story.started - story.came
    told.append(
        f"The urgent job had its first step {wait:.2f} step times after it came;"
        f" {story.steps_between} steps were begun without it in between"
    )
    return told


def _change(names: tuple[str, ...], previous: tuple[str, ...]) -> str:
    """Format the jobs of a step: `+` marks jobs that joined; those that left, parked or finished, are in brackets."""
    joined = [name if name in previous or not previous else f"+{name}" for name in names]
    left = [f"-{name}" for name in previous if name not in names]
    return "  ".join([*joined, *([f"({' '.join(left)})"] if left else [])])
