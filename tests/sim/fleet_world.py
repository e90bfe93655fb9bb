"""A simulated world with dispatchers between the requests and the workers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tests.sim.dispatcher import SimDispatcher
from tests.sim.fleet_audit import FleetAudit
from tests.sim.group import Group
from tests.sim.process import SimProcess
from tests.sim.reports import ReportLog
from tests.sim.scenarios import random_scenario
from tests.sim.worker import SETTINGS, SimWorker
from tests.sim.world import SESSION_TIMEOUT_S, Scenario, World

# The first letter of a process's name says what it is.
DISPATCHER, WORKER = "d", "w"


@dataclass(slots=True)
class Fleet:
    """A world of workers, and what lies before it.

    Args:
        lost_reports: the share of the reports that get lost while there is trouble.
        clocks_off_s: the most that the clock of a process is off.
    """

    scenario: Scenario
    dispatchers: int = 1
    lost_reports: float = 0.0
    clocks_off_s: float = 0.0


def random_fleet(seed: int) -> Fleet:
    """A random world with dispatchers; logs keep their ends, since what a work topic loses is lost."""
    rng = Random(f"fleet {seed}")
    return Fleet(
        replace(random_scenario(seed), older=0, lost_ends=[]),
        dispatchers=rng.randint(1, 2),
        lost_reports=rng.choice((0.0, 0.1, 0.6)),
        clocks_off_s=rng.choice((0.0, 0.0, 60.0, 7_200.0)),
    )


class FleetWorld(World):
    """Kills, stalls and drains are for dispatchers and workers alike."""

    audit: FleetAudit

    def __init__(self, seed: int, fleet: Fleet) -> None:
        super().__init__(seed, fleet.scenario)
        self._fleet = fleet
        self._reports = ReportLog(fleet.lost_reports)
        self._dispatchers = Group(
            self.kernel, fleet.scenario.partitions, SESSION_TIMEOUT_S, classic=fleet.scenario.classic
        )
        self.broker.groups.append(self._dispatchers)

    def _make_audit(self) -> Any:
        return FleetAudit(self.bucket, SETTINGS.crash_loop_limit)

    def _join(self, name: str | None = None) -> None:
        if not self._closing:
            self.start(name or self._new_name(self.kernel.rng.choice((DISPATCHER, WORKER))))

    def _schedule(self) -> None:
        for _ in range(self._fleet.dispatchers):
            self.start(self._new_name(DISPATCHER))
        super()._schedule()

    def _start_again(self) -> None:
        self.start(self._new_name(DISPATCHER))
        self.start(self._new_name(WORKER))

    def _make(self, name: str, *, older: bool) -> SimProcess:
        assert not older, "with dispatchers there are no workers from before them"
        off_s = self.kernel.rng.uniform(-1, 1) * self._fleet.clocks_off_s
        if name.startswith(DISPATCHER):
            return SimDispatcher(
                self.kernel, self.broker, self.faults, name, group=self._dispatchers, reports=self._reports,
                clock_off_s=off_s, crash=self.crash, died=self._died, end=self._end,
            )  # fmt: skip
        return SimWorker(
            self.kernel, self.broker, self.bucket, self.faults, name, group=self.broker.group,
            slots=self.scenario.slots, buffer=self.scenario.buffer, reports=self._reports,
            clock_off_s=off_s, crash=self.crash, died=self._died, end=self._end, on_run=self._on_run,
        )  # fmt: skip
