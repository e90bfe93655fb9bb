"""The faults of brokers, topics and S3. Each call inflicts one and returns when it is mended."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from confluent_kafka.admin import AdminClient

from devtools.local.kafka import KafkaCluster
from devtools.local.seaweedfs import SeaweedFS
from tests.chaos.lost_end import Place, end_of, lose_end
from tests.chaos.options import PARTITIONS
from tests.chaos.plan import Kind
from tests.chaos.proxy import Mood, S3Proxy
from tests.rights import Rights, TakenTogether
from worker.topic_admin import TopicsError, create_topics
from worker.topics import Topics

# After all brokers were killed, the coordinator tells offsets as of the high watermark that was last written down: old
# ones, until the followers have fetched again (KAFKA-15910).
STALE_S = 10.0
# A slow broker is suspended and runs in turns of this length.
SUSPENDED_S, RUNNING_S = 0.3, 0.1
TOPIC_S = 30.0
_RETRY_PAUSE_S = 0.5


@dataclass(slots=True)
class Site:
    """`inflicted` counts the faults by kind.

    `lost_ends`: the places whose log has lost its end, and where that was not before. Their committed offset may go
    back, but not beyond this; who has seen it do so takes the place out. `offsets_are_stale`: whether the coordinator
    may tell older offsets than are committed. `losable`: the rights that workers and dispatchers lose in turn.
    """

    kafka: KafkaCluster
    s3: SeaweedFS
    proxy: S3Proxy
    topics: Topics
    rights: Rights
    losable: Sequence[TakenTogether]
    inflicted: Counter[Kind] = field(default_factory=Counter)
    lost_ends: dict[Place, int] = field(default_factory=dict)
    offsets_are_stale: bool = False
    shortened: set[Place] = field(default_factory=set)
    _victims: itertools.cycle[Place] = field(init=False)
    _brokers: itertools.cycle[int] = field(init=False)
    _next_rights: itertools.cycle[TakenTogether] = field(init=False)

    def __post_init__(self) -> None:
        self._brokers = itertools.cycle(self.kafka.broker_ids)
        self._next_rights = itertools.cycle(self.losable)
        # The lanes with the most requests first.
        places = [(topic, partition) for partition in range(PARTITIONS) for topic in reversed(self.topics.requests)]
        self._victims = itertools.cycle(places)

    def inflict(self, kind: Kind, lasts_s: float) -> None:
        """Do it for so long, and repair it."""
        self.inflicted[kind] += 1
        match kind:
            case Kind.BROKER:
                self._bounce(next(self._brokers), lasts_s)
            case Kind.BROKER_SLOW:
                self._slow_down(next(self._brokers), lasts_s)
            case Kind.STATUS_DELETED:
                self._without_status(lasts_s)
            case Kind.RIGHT_REMOVED:
                self._remove_rights(next(self._next_rights), lasts_s)
            case Kind.LOST_END:
                self._lose_an_end(lasts_s)
            case Kind.S3_STOP:
                self._outage(self.s3.stop, self.s3.start, lasts_s)
            case Kind.S3_SUSPEND:
                self._outage(self.s3.suspend, self.s3.resume, lasts_s)
            case Kind.S3_SLOW:
                self._mood(Mood.SLOW, lasts_s)
            case Kind.S3_REFUSED:
                self._mood(Mood.REFUSE, lasts_s)
            case _:
                raise ValueError(f"{kind} is no fault of the site")

    def _bounce(self, broker: int, lasts_s: float) -> None:
        self.kafka.kill(broker)
        time.sleep(lasts_s)
        self.kafka.start_broker(broker)
        # Until it is in sync again, losing another would stop writing to some partitions for longer than a bounce.
        time.sleep(2)

    def _slow_down(self, broker: int, lasts_s: float) -> None:
        ends_at = time.monotonic() + lasts_s
        while time.monotonic() < ends_at:
            self.kafka.suspend(broker)
            try:
                time.sleep(SUSPENDED_S)
            finally:
                self.kafka.resume(broker)
            time.sleep(RUNNING_S)

    def _without_status(self, lasts_s: float) -> None:
        """Statuses are notices: without their topic, results must go on."""
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers, "log_level": 0})
        admin.delete_topics([self.topics.status], operation_timeout=TOPIC_S)[self.topics.status].result(TOPIC_S)
        time.sleep(lasts_s)
        gives_up_at = time.monotonic() + TOPIC_S
        created: tuple[str, ...] = ()
        # A deleted topic's name is free only some moments later.
        while self.topics.status not in created:
            try:
                created = create_topics(
                    self.kafka.bootstrap_servers, self.topics, PARTITIONS, len(self.kafka.broker_ids)
                )
            except TopicsError:
                if time.monotonic() > gives_up_at:
                    raise
            if self.topics.status not in created and time.monotonic() > gives_up_at:
                raise TimeoutError(f"{self.topics.status} was not made again in {TOPIC_S:g} s")
            time.sleep(_RETRY_PAUSE_S)

    def _remove_rights(self, rights: TakenTogether, lasts_s: float) -> None:
        self.rights.take(*rights)
        time.sleep(lasts_s)
        self.rights.give_back(*rights)

    def _lose_an_end(self, written_s: float) -> None:
        place = next(self._victims)
        self.shortened.add(place)
        self.lost_ends[place] = end_of(self.kafka, place)
        self.offsets_are_stale = True
        lose_end(self.kafka, place, written_s)
        time.sleep(STALE_S)
        self.offsets_are_stale = False

    def _outage(self, stop: Callable[[], None], start: Callable[[], None], lasts_s: float) -> None:
        stop()
        time.sleep(lasts_s)
        start()

    def _mood(self, mood: Mood, lasts_s: float) -> None:
        self.proxy.mood = mood
        time.sleep(lasts_s)
        self.proxy.mood = Mood.PASS
