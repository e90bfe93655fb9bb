"""The real worker, wired by the real `app.build`, on simulated clients, time and threads."""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.broker import Broker
from tests.sim.connections import SimConnections
from tests.sim.engine import FakeEngine
from tests.sim.faults import Faults, Port
from tests.sim.group import Group
from tests.sim.kernel import Kernel
from tests.sim.process import SimProcess
from tests.sim.reports import ReportLog
from tests.sim.store import Bucket
from tests.sim.threads import SimThreads
from worker import app
from worker.call_sizes import CallSizes
from worker.delivery.manifest import ModelInfo
from worker.engine_interface import EngineHooks
from worker.intake.admit import AdmissionRules
from worker.job import Job
from worker.settings import Settings
from worker.telemetry.health import Health

SETTINGS = Settings(
    _env_file=None,
    aws_s3_bucket="sim",
    buffer_per_partition=4,
    dispatch_buffer_per_partition=4,
    revoke_timeout_s=2.0,
    crash_loop_limit=3,
    checkpoint_jobs=True,
    upload_threads=2,
)
MODEL = ModelInfo(
    model_id="sim",
    model_fingerprint="sim",
    refiner_id=None,
    refiner_fingerprint=None,
    versions={},
    device="sim",
    dtype="float32",
    deterministic=True,
    calls=CallSizes("cpu", "float32"),
)
SLOTS = 2
LONGEST_JOB_S = 1.5


class SimWorker(SimProcess):
    """One process of the worker, from its start to its end.

    Args:
        reports: where it reports to dispatchers, whose work it reads; None where it reads requests.
    """

    def __init__(
        self,
        kernel: Kernel,
        broker: Broker,
        bucket: Bucket,
        faults: Faults,
        worker_id: str,
        *,
        group: Group,
        slots: int = SLOTS,
        buffer: int = SETTINGS.buffer_per_partition,
        older: bool = False,
        reports: ReportLog | None = None,
        clock_off_s: float = 0.0,
        crash: Callable[[SimProcess], None],
        died: Callable[[SimProcess, Exception], None],
        end: Callable[[SimProcess, str], None],
        on_run: Callable[[SimProcess, Job], None],
    ) -> None:
        super().__init__(kernel, worker_id)
        settings = SETTINGS.model_copy(
            update={
                "worker_id": worker_id,
                "buffer_per_partition": buffer,
                "input": "requests" if reports is None else "work",
            }
        )
        port = Port(kernel, faults, self, lambda: crash(self), self._check_unlocked)
        connections = SimConnections(
            kernel, broker, bucket, group, port, settings, lambda: self._wired.draining, lambda: crash(self),
            reports=reports, older=older,
        )  # fmt: skip
        threads = SimThreads(
            kernel, self, lambda error: died(self, error), lambda reason: end(self, reason), clock_off_s
        )

        def make_engine(hooks: EngineHooks) -> FakeEngine:
            return FakeEngine(
                kernel.seed,
                kernel.clock,
                hooks,
                slots=slots,
                longest_s=LONGEST_JOB_S,
                on_run=lambda job: on_run(self, job),
            )

        worker = app.build(
            settings,
            AdmissionRules(settings),
            app.LoadedEngine(make_engine, MODEL, {}),
            connections,
            threads,
            Health(kernel.clock),
        )
        self._wire(worker, threads, group, connections.members)
