"""The real worker on simulated clients, wired as `app.build` does; its loops are the kernel's threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from random import Random
from threading import get_ident
from typing import Any, cast

from confluent_kafka import KafkaError, KafkaException

from tests.sim.broker import Broker
from tests.sim.clients import FakeConsumer, FakeProducer
from tests.sim.engine import FakeEngine
from tests.sim.faults import Faults, Port
from tests.sim.kernel import Kernel, Process
from tests.sim.requests import CODEC, TOPICS
from tests.sim.store import Bucket, FakeStore
from worker import kafka_config
from worker.delivery.finish import Completer
from worker.delivery.manifest import ModelInfo
from worker.delivery.messages import Announcer
from worker.delivery.publish import Callbacks, Publisher
from worker.delivery.retry_queue import WorkQueue
from worker.delivery.transport import TRANSACTION_CONFIG, ExactlyOnce
from worker.intake.consume import Intake
from worker.intake.consumer_proxy import ANSWER_TIMEOUT_S, Errands
from worker.intake.ledger import Ledger
from worker.job import Job
from worker.lifecycle import Flow
from worker.settings import Settings

SETTINGS = Settings(
    _env_file=None,
    aws_s3_bucket="sim",
    buffer_per_partition=4,
    revoke_timeout_s=2.0,
    crash_loop_limit=3,
    checkpoint_jobs=True,
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
    slots=2,
)
SLOTS = 2
POOL = 2
LONGEST_JOB_S = 1.5
DRAIN_S = 5.0
ASK_PAUSE_S = 0.05


class SimErrands(Errands):
    """Waits for the poll thread in simulated time; the real one would stop everything."""

    def __init__(self, consumer: Any, pause: Callable[[float], None]) -> None:
        super().__init__(consumer)
        self._pause = pause

    def enter(self) -> None:
        """The poll loop's tick has this real thread for itself until it ends."""
        self._poll_thread = get_ident()

    def leave(self) -> None:
        self._poll_thread = None

    def _ask(self, errand: Callable[[], Any]) -> Any:
        if self._poll_thread == get_ident():
            return errand()
        answer: Future[Any] = Future()
        self._waiting.append((errand, answer))
        for _ in range(round(ANSWER_TIMEOUT_S / ASK_PAUSE_S)):
            if answer.done():
                return answer.result()
            self._pause(ASK_PAUSE_S)
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


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
        crash: Callable[[SimWorker], None],
        on_run: Callable[[SimWorker, Job], None],
    ) -> None:
        super().__init__(worker_id)
        self.leaving = False
        self._kernel = kernel
        settings = SETTINGS.model_copy(update={"worker_id": worker_id})
        port = Port(kernel, faults, self, lambda: crash(self), self._check_unlocked)
        self.ledger = Ledger()
        self.consumer = FakeConsumer(kernel, broker, port)
        self.errands = SimErrands(self.consumer, lambda seconds: kernel.wait(self, seconds))
        self.work = WorkQueue(kernel.clock)
        self.flow = Flow(
            self.ledger,
            self.work,
            Completer(cast("Any", FakeStore(bucket, port)), MODEL, settings),
            Announcer(TOPICS, worker_id),
            kernel.clock,
            self._pause,
            crash_loop_limit=settings.crash_loop_limit,
            revoke_timeout_s=settings.revoke_timeout_s,
        )
        self.engine = FakeEngine(
            Random(kernel.rng.random()),
            kernel.clock,
            slots=SLOTS,
            longest_s=LONGEST_JOB_S,
            on_run=lambda job: on_run(self, job),
            ended=self.flow.ended,
            progress=self.flow.progress,
            dropped=self.flow.dropped,
        )
        self.flow.engine = self.engine
        config = TRANSACTION_CONFIG | {"transactional.id": kafka_config.transactional_id(settings)}
        self.publisher = self.flow.publisher = Publisher(
            ExactlyOnce(lambda: cast("Any", FakeProducer(broker, port, config)), self.errands),
            self.ledger,
            CODEC,
            Callbacks(self.flow.started, self.flow.finished, self.flow.discarded),
            flush_interval_s=settings.flush_interval_ms / 1000,
        )
        self.intake = Intake(
            cast("Any", self.consumer),
            self.errands,
            self.ledger,
            CODEC,
            self.flow,
            settings,
            TOPICS.requests,
            kernel.clock,
        )

    def start(self, died: Callable[[Exception], None]) -> None:
        """Start the loops and join the group."""
        uniform, now = self._kernel.rng.uniform, self._kernel.clock
        self.errands.serve()
        self.intake.subscribe()

        def loop(tick: Callable[[], bool]) -> None:
            self._kernel.thread(self, lambda: uniform(0.001, 0.03) if tick() else uniform(0.03, 0.25), died)

        self._kernel.thread(self, self._poll, died)
        loop(self.engine.tick)
        loop(lambda: self.publisher.tick(now()))
        for _ in range(POOL):
            loop(self.work.run_one)

    def _poll(self) -> float:
        self.errands.enter()
        if self.leaving:
            self._drain()
            self.alive = False
        else:
            self.intake.tick(0.0)
        self.errands.leave()
        return self._kernel.rng.uniform(0.005, 0.08)

    def _drain(self) -> None:
        """As `app.Worker.drain` does."""
        self.intake.stop()
        with self.ledger.lock:
            partitions = self.ledger.partitions()
            self.ledger.close(partitions)
        self.flow.hand_back_waiting()
        deadline = self._kernel.now + DRAIN_S
        while self.ledger.unfinished() and self._kernel.now < deadline:
            self.intake.tick(0.0)
            self._pause(0.02)
        self.flow.hand_back_all(partitions)
        self.consumer.close()
        self.publisher.close()

    def _pause(self, seconds: float) -> None:
        self.errands.serve()
        self._kernel.wait(self, seconds * self._kernel.rng.uniform(1, 5))

    def _check_unlocked(self) -> None:
        # The kernel's threads are one to the lock, so a call that holds it would let others in where they must wait.
        assert not self.ledger.lock._is_owned(), "I/O with the ledger locked"  # type: ignore[attr-defined]
