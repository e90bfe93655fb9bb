"""How long jobs wait where their worker is killed, and where it is not, in simulated time.

`python -m tests.sim.after_a_kill` prints a line for each seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.sim.audit import Violation
from tests.sim.broker import Transaction
from tests.sim.kernel import EPOCH_S
from tests.sim.requests import TOPICS, Kind, make
from tests.sim.worker import SimWorker
from tests.sim.world import QUIET_WITHIN_S, Scenario, World, quiet
from worker.intake.offset_metadata import decode

JOBS = 36
SLOTS = 4
BUFFER = 16
KILL_S = 2.0


@dataclass(slots=True)
class Waits:
    """Simulated seconds: until the last outcome, and from sending to the outcome by lane, the longest; the starts that
    were durable when the worker was killed."""

    total_s: float = 0.0
    worst_s: dict[int, float] = field(default_factory=dict)
    suspects: int = 0


class Kill(World):
    """One worker with all jobs waiting from the beginning; it is killed, and replaced at once."""

    def __init__(self, seed: int, kill_s: float | None) -> None:
        requests = [make(n, Kind.GOOD, n % 3, f"job-{n}") for n in range(1, JOBS + 1)]
        kills = [] if kill_s is None else [kill_s]
        scenario = Scenario(
            [(0.0, request) for request in requests],
            workers=1,
            partitions=1,
            trouble_s=KILL_S,
            kills=kills,
            slots=SLOTS,
            buffer=BUFFER,
            by_job=True,
        )
        super().__init__(seed, scenario)
        self.waits = Waits()

    def _replace(self, worker: SimWorker) -> None:
        # The group notices at once, so that what is measured is the work and not the absence of a worker.
        self.waits.suspects = sum(len(decode(*place).starts) for place in self.broker.positions.values())
        member = worker.consumer.member
        if member is not None:
            self.broker.group.leave(member)
        self._join(worker.name)

    def _run(self) -> None:
        durable = self.audit.on_commit

        def on_commit(transaction: Transaction) -> None:
            before = {request.number for request in self.audit.unanswered()}
            durable(transaction)
            self.waits.total_s = self.kernel.now - EPOCH_S
            for number in before - {request.number for request in self.audit.unanswered()}:
                lane = TOPICS.requests.index(self.audit.requests[number].topic)
                self.waits.worst_s[lane] = self.kernel.now - EPOCH_S

        self.audit.on_commit = on_commit  # type: ignore[method-assign]
        self._schedule()
        self.kernel.run_for(self.scenario.trouble_s)
        if not self.kernel.run_until(lambda: self._all_sent() and not self.audit.unanswered(), QUIET_WITHIN_S):
            raise Violation(f"never finished: {self.audit.unanswered()}")


def measure(seed: int, kill_s: float | None = None) -> Waits:
    """One run."""
    with quiet():
        world = Kill(seed, kill_s)
        world.run()
    return world.waits


def main() -> None:
    """Print the waits of a few seeds and moments of the kill."""
    for seed in range(5):
        calm = measure(seed)
        print(f"seed {seed}, no kill:       total {calm.total_s:4.1f}  worst urgent {calm.worst_s[0]:4.1f}")
        for kill_s in (0.7, 1.5, 2.5, 4.0):
            got = measure(seed, kill_s)
            print(
                f"seed {seed}, kill at {kill_s:.1f} s: total {got.total_s:4.1f}  worst urgent {got.worst_s[0]:4.1f}"
                f" ({got.worst_s[0] / calm.worst_s[0]:.2f})  suspects {got.suspects}"
            )


if __name__ == "__main__":
    main()
