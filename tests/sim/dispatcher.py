"""The real dispatcher, wired by the real `start.build`, on simulated clients, time and threads."""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.broker import Broker
from tests.sim.connections import DispatcherConnections
from tests.sim.faults import Faults, Port
from tests.sim.group import Group
from tests.sim.kernel import Kernel
from tests.sim.process import SimProcess
from tests.sim.reports import ReportLog
from tests.sim.store import Bucket
from tests.sim.threads import SimThreads
from tests.sim.worker import SETTINGS
from worker.dispatch import start
from worker.intake.admit import AdmissionRules
from worker.telemetry.health import Health


class SimDispatcher(SimProcess):
    """One process of the dispatcher, from its start to its end."""

    def __init__(
        self,
        kernel: Kernel,
        broker: Broker,
        faults: Faults,
        name: str,
        *,
        group: Group,
        reports: ReportLog,
        clock_off_s: float,
        crash: Callable[[SimProcess], None],
        died: Callable[[SimProcess, Exception], None],
        end: Callable[[SimProcess, str], None],
    ) -> None:
        super().__init__(kernel, name)
        settings = start.dispatch_settings(SETTINGS.model_copy(update={"worker_id": name}))
        port = Port(kernel, faults, self, lambda: crash(self), self._check_unlocked)
        connections = DispatcherConnections(
            kernel, broker, Bucket(), group, port, settings, lambda: self._wired.draining, lambda: crash(self),
            reports=reports,
        )  # fmt: skip
        threads = SimThreads(
            kernel, self, lambda error: died(self, error), lambda reason: end(self, reason), clock_off_s
        )
        dispatcher = start.build(settings, AdmissionRules(settings), connections, threads, Health(kernel.clock))
        self._wire(dispatcher, threads, group, connections.members)
