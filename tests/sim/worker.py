"""The real worker, wired by the real `app.build`, on simulated clients, time and threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import get_ident
from typing import Any, NoReturn, TypeVar, cast

from tests.sim.broker import Broker
from tests.sim.clients import FakeAdmin, FakeConsumer, FakeProducer, FakeReader, NoCancellations
from tests.sim.engine import FakeEngine
from tests.sim.faults import Faults, Port
from tests.sim.group import Member
from tests.sim.kernel import Crashed, Kernel, Process
from tests.sim.requests import TOPICS
from tests.sim.store import Bucket, FakeStore
from worker import app, kafka_config
from worker.call_sizes import CallSizes
from worker.cluster.check import Problem
from worker.cluster.contact import Contact
from worker.delivery.manifest import ModelInfo
from worker.delivery.transport import TRANSACTION_CONFIG, ExactlyOnce, Group, Transport
from worker.delivery.upload import PictureStore
from worker.intake.admit import AdmissionRules
from worker.job import EngineHooks, Job, Lane
from worker.settings import Settings
from worker.telemetry.health import Health
from worker.threads import Loop

T = TypeVar("T")

SETTINGS = Settings(
    _env_file=None,
    aws_s3_bucket="sim",
    buffer_per_partition=4,
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
DRAIN_S = 5.0
ANSWER_PAUSE_S = 0.05


class SimThreads:
    """The kernel's time and threads, of one process."""

    def __init__(
        self, kernel: Kernel, process: Process, died: Callable[[Exception], None], end: Callable[[str], None]
    ) -> None:
        self._kernel, self._process, self._died, self._end = kernel, process, died, end
        # Real thread -> name of the simulated one whose tick runs on it.
        self._running: dict[int, str] = {}
        self._stopped = False

    def now(self) -> float:
        return self._kernel.now

    def monotonic(self) -> float:
        return self._kernel.now

    def sleep(self, seconds: float) -> None:
        self._kernel.wait(self._process, seconds * self._kernel.rng.uniform(1, 5))

    def current(self) -> object:
        return self._running.get(get_ident())

    def answer(self, future: Future[T], timeout_s: float) -> T:
        deadline = self._kernel.now + timeout_s
        while not future.done():
            if self._kernel.now >= deadline:
                raise TimeoutError
            self._kernel.wait(self._process, ANSWER_PAUSE_S)
        return future.result()

    def call(self, _name: str, function: Callable[[], object], _timeout_s: float) -> bool:
        function()
        return True

    def end(self, reason: str) -> NoReturn:
        self._end(reason)
        raise Crashed(reason)

    def start(self, loop: Loop, _beat: Callable[[str], None], _died: Callable[[str, BaseException], None]) -> None:
        uniform = self._kernel.rng.uniform
        first = [loop.first]

        def tick() -> float:
            if self._stopped:
                return 60.0
            while first:
                first.pop()()
            return uniform(0.001, 0.03) if loop.tick() else uniform(0.03, 0.25)

        self.run(loop.name, tick)

    def run(self, name: str, tick: Callable[[], float]) -> None:
        """Call `tick` again and again; it returns how long it sleeps."""

        def named() -> float:
            self._running[get_ident()] = name
            try:
                return tick()
            finally:
                del self._running[get_ident()]

        self._kernel.thread(self._process, named, self._died)

    def stop(self, _timeout_s: float) -> None:
        self._stopped = True


class SoundCluster:
    """A cluster that always answers and has nothing wrong with it."""

    servers = "simulated"

    def __init__(self, clock: Callable[[], float]) -> None:
        self.contact = Contact(clock)

    def check(self, _timeout_s: float) -> list[Problem]:
        return []


class SimConnections:
    """Clients of the simulated broker and bucket; `members` are the group members by topic.

    Args:
        older: one member for all topics, as workers had before they had one for each.
    """

    def __init__(
        self,
        kernel: Kernel,
        broker: Broker,
        bucket: Bucket,
        port: Port,
        worker_id: str,
        draining: Callable[[], bool],
        crash: Callable[[], None],
        *,
        older: bool,
    ) -> None:
        self._crash = crash
        self._kernel, self._broker, self._port = kernel, broker, port
        self._worker_id = worker_id
        self._draining = draining
        self.store = cast("PictureStore", FakeStore(bucket, port))
        self.cluster = SoundCluster(kernel.clock)
        self._consumer = self._new_member() if older else None
        self.members: dict[str, FakeConsumer] = {}

    def _new_member(self) -> FakeConsumer:
        return FakeConsumer(self._kernel, self._broker, self._port, self._wait_for_records)

    def member(self, lane: Lane) -> Any:
        if self._consumer is not None and len(self.members) == len(Lane):
            # An older worker ended when its member gave up.
            self._crash()
            raise Crashed(self._worker_id)
        consumer = self.members[TOPICS.requests[lane]] = self._consumer or self._new_member()
        return consumer

    def offsets_reader(self) -> Any:
        return FakeReader(self._kernel, self._broker, self._port, self._wait_for_records)

    def cancellations_reader(self) -> Any:
        return NoCancellations()

    def bounds_admin(self) -> Any:
        return FakeAdmin(self._kernel, self._broker, self._port)

    def report_producer(self) -> Any:
        raise NotImplementedError("no dispatcher is simulated")

    def transport(self, group: Group) -> Transport:
        settings = SETTINGS.model_copy(update={"worker_id": self._worker_id})
        config = TRANSACTION_CONFIG | {"transactional.id": kafka_config.transactional_id(settings)}
        return ExactlyOnce(lambda: cast("Any", FakeProducer(self._broker, self._port, config)), group)

    def _wait_for_records(self, seconds: float) -> None:
        # The poll loop sleeps between its ticks, which costs no switch of real threads; only the drain polls in a row.
        if self._draining():
            self._kernel.wait(self._port.process, seconds * self._kernel.rng.uniform(1, 5))


class SimWorker(Process):
    """One process of the worker, from its start to its end."""

    def __init__(
        self,
        kernel: Kernel,
        broker: Broker,
        bucket: Bucket,
        faults: Faults,
        worker_id: str,
        *,
        slots: int = SLOTS,
        buffer: int = SETTINGS.buffer_per_partition,
        older: bool = False,
        crash: Callable[[SimWorker], None],
        died: Callable[[SimWorker, Exception], None],
        end: Callable[[SimWorker, str], None],
        on_run: Callable[[SimWorker, Job], None],
    ) -> None:
        super().__init__(worker_id)
        self.leaving = False
        self._kernel = kernel
        settings = SETTINGS.model_copy(update={"worker_id": worker_id, "buffer_per_partition": buffer})
        port = Port(kernel, faults, self, lambda: crash(self), self._check_unlocked)
        connections = SimConnections(
            kernel, broker, bucket, port, worker_id, lambda: self._worker.draining, lambda: crash(self), older=older
        )
        self._group, self._members = broker.group, connections.members
        self._threads = SimThreads(kernel, self, lambda error: died(self, error), lambda reason: end(self, reason))

        def make_engine(hooks: EngineHooks) -> FakeEngine:
            return FakeEngine(
                kernel.seed,
                kernel.clock,
                hooks,
                slots=slots,
                longest_s=LONGEST_JOB_S,
                on_run=lambda job: on_run(self, job),
            )

        self._worker = app.build(
            settings,
            AdmissionRules(settings),
            app.LoadedEngine(make_engine, MODEL, {}),
            connections,
            self._threads,
            Health(kernel.clock),
        )

    def member(self, topic: str) -> Member | None:
        """The group's member of this worker for a topic; None while there is none."""
        member = self._members[topic].member
        return member if member is not None and member.id in self._group.members else None

    def forget_to_fetch(self) -> None:
        """The clients leave all partitions that they have now paused (librdkafka#5591)."""
        for topic, consumer in self._members.items():
            member = self.member(topic)
            consumer.forgotten |= set() if member is None else member.owned

    def start(self) -> None:
        """Start the loops and join the group."""
        self._worker.start()
        self._threads.run("poll", self._poll)

    def _poll(self) -> float:
        if self.leaving:
            self._worker.drain(DRAIN_S, hurry=lambda: False)
            self.alive = False
        else:
            self._worker.poll()
        return self._kernel.rng.uniform(0.005, 0.08)

    def _check_unlocked(self) -> None:
        # The kernel's threads are one to the lock, so a call that holds it would let others in where they must wait.
        lock: Any = self._worker.ledger.lock
        assert not lock._is_owned(), "I/O with the ledger locked"
