"""Carry out the plan of a run: each fault at its time, and then its repair."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from devtools.local.kafka import KafkaCluster
from devtools.local.seaweedfs import SeaweedFS
from tests.chaos.crew import Crew
from tests.chaos.plan import Fault, Kind

Say = Callable[[str], None]


@dataclass(slots=True)
class Director:
    """`tick` is called again and again; starting a broker or S3 takes seconds and happens beside it."""

    plan: Sequence[Fault]
    crew: Crew
    kafka: KafkaCluster
    s3: SeaweedFS
    say: Say
    broker_bounces: int = 0
    s3_outages: int = 0
    _next: int = 0
    _site: Future[None] | None = None
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "site-fault"))
    _brokers: itertools.cycle[int] = field(init=False)

    def __post_init__(self) -> None:
        self._brokers = itertools.cycle(self.kafka.broker_ids)

    def tick(self, elapsed_s: float) -> None:
        """Do what is due; a fault that finds no victim now waits, and those after it too."""
        self.crew.mend()
        while not self.done and self.plan[self._next].at <= elapsed_s and self._inflict(self.plan[self._next]):
            fault = self.plan[self._next]
            self.say(f"{fault.kind}, for {fault.lasts_s:.1f} s")
            self._next += 1

    @property
    def done(self) -> bool:
        """Whether every fault has been inflicted."""
        return self._next == len(self.plan)

    @property
    def mended(self) -> bool:
        """Whether everything is back. Raises what went wrong with a broker or S3."""
        if self._site is not None and self._site.done():
            self._site.result()
            self._site = None
        return self._site is None and self.crew.all_up

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _inflict(self, fault: Fault) -> bool:
        match fault.kind:
            case Kind.KILL:
                return self.crew.kill(fault.lasts_s, fault.new_name)
            case Kind.STALL:
                return self.crew.stall(fault.lasts_s)
            case Kind.DRAIN:
                return self.crew.drain(fault.lasts_s)
            case Kind.BROKER:
                return self._at_the_site(lambda: self._bounce(next(self._brokers), fault.lasts_s))
            case Kind.S3_STOP:
                return self._at_the_site(lambda: self._outage(self.s3.stop, self.s3.start, fault.lasts_s))
            case Kind.S3_SUSPEND:
                return self._at_the_site(lambda: self._outage(self.s3.suspend, self.s3.resume, fault.lasts_s))

    def _at_the_site(self, fault: Callable[[], None]) -> bool:
        if self._site is not None and not self._site.done():
            return False
        if self._site is not None:
            self._site.result()
        self._site = self._pool.submit(fault)
        return True

    def _bounce(self, broker: int, lasts_s: float) -> None:
        self.kafka.kill(broker)
        self.broker_bounces += 1
        time.sleep(lasts_s)
        self.kafka.start_broker(broker)
        # Until it is in sync again, losing another would stop writing to some partitions for longer than a bounce.
        time.sleep(2)

    def _outage(self, stop: Callable[[], None], start: Callable[[], None], lasts_s: float) -> None:
        stop()
        self.s3_outages += 1
        time.sleep(lasts_s)
        start()
