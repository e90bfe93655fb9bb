"""How long jobs wait where their worker is killed, and where it is not, in simulated time.

`python -m tests.sim.after_a_kill` prints a line for each seed and moment of the kill.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.sim.audit import Violation
from tests.sim.kernel import EPOCH_S
from tests.sim.process import SimProcess
from tests.sim.requests import TOPICS, Kind, Request, make
from tests.sim.world import QUIET_WITHIN_S, Scenario, World, quiet
from worker.intake.offset_metadata import decode
from worker.job import Lane

JOBS = 36
SLOTS = 4
BUFFER = 16
KILLS_S = (0.6, 1.1, 1.7, 2.2, 4.0)


@dataclass(slots=True)
class Run:
    """What came of one run, in simulated seconds since all requests were sent.

    Args:
        suspects: the jobs whose starts were durable, and which had no outcome, when the worker was killed.
        worst_s: until the last outcome of each lane was durable.
    """

    suspects: int = 0
    worst_s: dict[Lane, float] = field(default_factory=dict)

    @property
    def total_s(self) -> float:
        """Until the last outcome."""
        return max(self.worst_s.values())


class Kill(World):
    """One worker, for which all jobs wait from the beginning. It is killed, and replaced at once."""

    def __init__(self, seed: int, kill_s: float | None) -> None:
        requests = [make(n, Kind.GOOD, n % 3, f"job-{n}") for n in range(1, JOBS + 1)]
        scenario = Scenario(
            [(0.0, request) for request in requests],
            workers=1,
            partitions=1,
            kills=[] if kill_s is None else [kill_s],
            slots=SLOTS,
            buffer=BUFFER,
        )
        super().__init__(seed, scenario)
        self.result = Run()

    def _replace(self, worker: SimProcess) -> None:
        # The group notices at once, so that the work is measured and not the absence of a worker.
        self.result.suspects = sum(len(decode(*place).starts) for place in self.broker.positions.values())
        for topic in TOPICS.requests:
            member = worker.member(topic)
            assert member is not None
            self.broker.group.leave(member)
        self._join(worker.name)

    def _run(self) -> None:
        self._schedule()
        for lane in Lane:
            self.kernel.at(0.0, lambda lane=lane: self._note(lane))  # type: ignore[misc]
        if not self.kernel.run_until(lambda: len(self.result.worst_s) == len(Lane), QUIET_WITHIN_S):
            raise Violation(f"never finished: {self.audit.unanswered()}")

    def _note(self, lane: Lane) -> None:
        if all(request.outcomes for request in self._requests(lane)):
            self.result.worst_s[lane] = self.kernel.now - EPOCH_S
        else:
            self.kernel.at(0.01, lambda: self._note(lane))

    def _requests(self, lane: Lane) -> list[Request]:
        return [request for _, request in self.scenario.requests if request.topic == TOPICS.requests[lane]]


def measure(seed: int, kill_s: float | None = None) -> Run:
    """One run; each job takes as long whenever it is drawn."""
    with quiet():
        world = Kill(seed, kill_s)
        world.run()
    return world.result


def main() -> None:
    """Print what a kill costs."""
    for seed in range(8):
        calm = measure(seed)
        wait_s = calm.worst_s[Lane.URGENT]
        print(f"seed {seed}  no kill      total {calm.total_s:4.1f} s  worst urgent wait {wait_s:4.1f} s")
        for kill_s in KILLS_S:
            run = measure(seed, kill_s)
            worst_s = run.worst_s[Lane.URGENT]
            print(
                f"seed {seed}  kill {kill_s:.1f} s   total {run.total_s:4.1f} s  worst urgent wait {worst_s:4.1f} s"
                f" ({worst_s / wait_s:.2f} times)  suspects {run.suspects}"
            )


if __name__ == "__main__":
    main()
