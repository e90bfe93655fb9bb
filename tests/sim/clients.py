"""The confluent-kafka clients that the worker uses, on the simulated broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, TopicCollection, TopicPartition

from tests.sim.broker import Broker, Entry, Headers, Session, abortable, fatal, retriable
from tests.sim.faults import Fault, Port
from tests.sim.group import Group, Key, Member
from tests.sim.kernel import Kernel
from worker.intake.log_bounds import EARLIEST

Callback = Callable[[Any, list[TopicPartition]], None]

_UNSTABLE_RETRY_S = 0.1
_FORBIDDEN = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)


@dataclass(frozen=True, slots=True)
class Membership:
    """What `consumer_group_metadata` returns: who this consumer was when it last heard from the broker."""

    member_id: str
    epoch: int


class Record:
    """A message as confluent-kafka hands it out; with an error it is an event, perhaps of a partition."""

    def __init__(self, entry: Entry | None, error: KafkaError | None = None) -> None:
        self._entry, self._error = entry, error

    @staticmethod
    def event(key: Key, offset: int, code: int, text: str = "simulated") -> Record:
        return Record(Entry(*key, offset, None, None, [], 0.0), KafkaError(code, text))

    def leader_epoch(self) -> int | None:
        return None if self._entry is None else self._entry.leader_epoch

    def error(self) -> KafkaError | None:
        return self._error

    def topic(self) -> str | None:
        return None if self._entry is None else self._entry.topic

    def partition(self) -> int | None:
        return None if self._entry is None else self._entry.partition

    def offset(self) -> int | None:
        return None if self._entry is None else self._entry.offset

    def key(self) -> bytes | None:
        return None if self._entry is None else self._entry.key

    def value(self) -> bytes | None:
        return None if self._entry is None else self._entry.value

    def headers(self) -> Headers | None:
        return None if self._entry is None else self._entry.headers

    def timestamp(self) -> tuple[int, int]:
        return (0, -1) if self._entry is None else (1, round(self._entry.at * 1000))


class FakeConsumer:
    """A group member. Its heartbeats are the process's: they go on while it does not poll.

    Args:
        wait: is called with the poll's timeout when there is no record.
    """

    def __init__(self, kernel: Kernel, broker: Broker, group: Group, port: Port, wait: Callable[[float], None]) -> None:
        self._kernel, self._broker, self._group, self._port = kernel, broker, group, port
        self._wait = wait
        self.member: Member | None = None
        self._topics: list[str] = []
        self._known = Membership("", -1)
        # The next offsets, and the leader epochs of what was read last.
        self._assigned: dict[Key, int] = {}
        self._leader_epochs: dict[Key, int | None] = {}
        # Partitions whose next offset is not there, and the ends that were told.
        self._stuck: set[Key] = set()
        self._told_ends: dict[Key, int] = {}
        self._paused: set[Key] = set()
        # What was assigned before can be paused; what was not when it was to be; errors of fetches before a seek.
        self._met: set[Key] = set()
        self._not_paused: set[Key] = set()
        self._unknown: set[Key] = set()
        self._overtaken: list[Record] = []
        # Partitions that are not fetched although nobody has paused them (librdkafka#5591).
        self.forgotten: set[Key] = set()
        self._callbacks: dict[str, Callback] = {}
        self._is_out_of_use = False
        # Since when it knows where the coordinator is.
        self._made_at = self._found_at = kernel.now

    @property
    def _id(self) -> str:
        return "" if self.member is None else self.member.id

    def subscribe(self, topics: Sequence[str], *, on_assign: Callback, on_revoke: Callback, on_lost: Callback) -> None:
        # An older worker has one member for all topics (`worker.SimConnections`).
        self._topics += topics
        self._callbacks = {"assign": on_assign, "revoke": on_revoke, "lost": on_lost}

    def poll(self, timeout_s: float) -> Record | None:
        record = self._port.call("poll", self._poll, lambda _fault: None)
        if record is None:
            self._wait(timeout_s)
        return record

    def _poll(self) -> Record | None:
        if self._is_out_of_use:
            return None
        refusal = _FORBIDDEN if self._broker.group_is_forbidden else self._group.refused.get(self._id)
        if refusal is not None:
            # librdkafka gives up for good (KIP-848), and takes the partitions away.
            self._is_out_of_use = True
            if self.member is not None:
                self._group.refused[self.member.id] = refusal
            return Record(None, KafkaError(KafkaError._FATAL, f"Fatal error: {refusal.str()}"))
        self._meet()
        if self._overtaken:
            return self._overtaken.pop()
        choices = [key for key in sorted(self._assigned) if key not in self._paused | self._stuck | self.forgotten]
        self._kernel.rng.shuffle(choices)
        for key in choices:
            lost = self._lost(key)
            if lost is not None:
                return lost
            entry = next(self._broker.log(key).committed(self._assigned[key]), None)
            if entry is not None:
                self._assigned[key] = entry.offset + 1
                self._leader_epochs[key] = entry.leader_epoch
                return Record(entry)
            end = self._broker.log(key).stable_end
            if self._told_ends.get(key) != end:
                if end > self._assigned[key]:
                    # librdkafka reads the epochs of what it skips: aborted records, markers.
                    self._leader_epochs[key] = self._broker.log(key).epoch_below(end)
                self._told_ends[key] = self._assigned[key] = end
                return Record.event(key, end, KafkaError._PARTITION_EOF)
        if self._port.faults.active and self._kernel.rng.random() < 0.01:
            return Record(None, KafkaError(KafkaError._TRANSPORT, "simulated", False, True, False))
        return None

    def _lost(self, key: Key) -> Record | None:
        """With `auto.offset.reset=error`: the event of a next offset that is not there."""
        log, at, epoch = self._broker.log(key), self._assigned[key], self._leader_epochs.get(key)
        text, told = None, at
        if epoch is not None and log.end_of(epoch) < at:
            text, told = (
                f"Partition log truncation detected: broker end offset is {log.end_of(epoch)} (simulated)",
                -1001,
            )
        elif not log.start <= at <= log.end:
            text = "Broker: Offset out of range"
        if text is None:
            return None
        self._stuck.add(key)
        return Record.event(key, told, KafkaError._AUTO_OFFSET_RESET, text)

    def incremental_assign(self, places: list[TopicPartition]) -> None:
        for place in places:
            key = place.topic, place.partition
            assert key not in self._assigned, f"{key} is assigned already"
            log = self._broker.log(key)
            at = {OFFSET_BEGINNING: log.start, OFFSET_END: log.end}.get(place.offset, place.offset)
            assert at >= 0, "no offset to start at"
            # Where librdkafka knows the leader already, it fetches an assigned offset without comparing epochs.
            self._assigned[key], self._leader_epochs[key] = at, None
            if key not in self._met and self._kernel.rng.random() < 0.3:
                # No metadata yet: it cannot fetch, and compares once it learns of the leader.
                self._unknown.add(key)
                self._leader_epochs[key] = place.leader_epoch
            self._met.add(key)
            self._told_ends.pop(key, None)
            self._stuck.discard(key)
            lost = None if key in self._paused | self._unknown else self._lost(key)
            if lost is not None and self._kernel.rng.random() < 0.5:
                self._overtaken.append(lost)
            else:
                self._stuck.discard(key)

    def incremental_unassign(self, places: list[TopicPartition]) -> None:
        for key in _keys(places):
            del self._assigned[key]

    def _meet(self) -> None:
        """Hear what the group has decided, and do it."""
        group = self._group
        if self.member is not None and self.member.id not in group.members:
            self.member = None
            self._let_go("lost", set(self._assigned))
        if self.member is None:
            self.member = group.join(self._port.process, self._topics)
        member = self.member
        if member.revoking:
            self._let_go("revoke", member.revoking & set(self._assigned))
            group.released(member)
        new = group.take_new(member)
        self._known = Membership(member.id, member.epoch)
        if new:
            self._callbacks["assign"](self, _places(new))
            assert new <= set(self._assigned), "assigned partitions that nobody reads"

    def _let_go(self, how: str, keys: set[Key]) -> None:
        if keys:
            self._callbacks[how](self, _places(keys))
        # A pause outlives a revoke: that is the worker's to put right.
        self._assigned = {key: at for key, at in self._assigned.items() if key not in keys}

    def pause(self, places: list[TopicPartition]) -> None:
        # Of no effect for a partition that librdkafka does not know yet.
        keys = _keys(places)
        self._paused |= keys & self._met
        self._not_paused |= keys - self._met

    def seek(self, place: TopicPartition) -> None:
        key = place.topic, place.partition
        assert key in self._assigned, f"a seek in {key}, which is not assigned"
        if key in self._unknown:
            self._unknown.discard(key)
            raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION, "simulated"))
        if self._kernel.rng.random() < (0.5 if key in self._stuck else 0.1):
            raise KafkaException(KafkaError(KafkaError._STATE, "simulated"))
        self._assigned[key], self._leader_epochs[key] = place.offset, place.leader_epoch

    def resume(self, places: list[TopicPartition]) -> None:
        keys = _keys(places)
        assert keys <= self._paused | self._not_paused, "a needless resume rewinds (librdkafka#4686)"
        self._paused -= keys
        self._not_paused -= keys
        self.forgotten -= keys

    def committed(self, places: list[TopicPartition], timeout_s: float) -> list[TopicPartition]:
        def ask() -> list[TopicPartition]:
            if self._broker.group_is_forbidden:
                raise KafkaException(_FORBIDDEN)
            if self._found_at < self._broker.moved_at:
                self._found_at = self._kernel.now
                raise retriable(KafkaError.NOT_COORDINATOR)
            deadline = self._kernel.now + timeout_s
            keys = [(p.topic, p.partition) for p in places]
            while self._broker.offsets_are_silent or self._broker.unstable(keys):
                if self._kernel.now >= deadline:
                    raise retriable(KafkaError._TIMED_OUT)
                self._kernel.wait(self._port.process, _UNSTABLE_RETRY_S)
            return [self._committed((p.topic, p.partition)) for p in places]

        def error(fault: Fault) -> Exception | None:
            self._broker.move_coordinator()
            self._found_at = self._kernel.now
            return _client_error(fault)

        return self._port.call("committed", ask, error)

    def _committed(self, key: Key) -> TopicPartition:
        offset, metadata, epoch = self._broker.told(key, self._made_at) or (-1001, "", None)
        return TopicPartition(*key, offset, metadata, *(() if epoch is None else (epoch,)))

    def get_watermark_offsets(self, place: TopicPartition, *, cached: bool) -> tuple[int, int]:
        assert cached, "a look-up would wait for the broker"
        log = self._broker.log((place.topic, place.partition))
        return log.start, log.end

    def consumer_group_metadata(self) -> Membership:
        # Heartbeats bring a new epoch in the background, a little late.
        member = self.member
        if member is not None and member.id in self._group.members and self._kernel.rng.random() < 0.5:
            self._known = Membership(member.id, member.epoch)
        return self._known

    def close(self) -> None:
        """Give everything up in order, then leave."""
        member = self.member
        if member is None:
            return
        known = member.id in self._group.members
        if self._is_out_of_use:
            # It says no goodbye (librdkafka's test 0147).
            self.member = None
            return
        self._let_go("revoke" if known else "lost", set(self._assigned))
        self._port.call("close", lambda: self._group.leave(member), lambda _fault: None)
        self.member = None


class FakeAdmin:
    """An admin client that is asked about logs and topics; answers come later, or not at all."""

    def __init__(self, kernel: Kernel, broker: Broker, port: Port) -> None:
        self._kernel, self._broker, self._port = kernel, broker, port

    def poll(self, _timeout_s: float) -> int:
        return 0

    def list_offsets(self, places: Mapping[TopicPartition, object], **_: object) -> Mapping[TopicPartition, Any]:
        return {place: self._answer(partial(self._bound, place, spec)) for place, spec in places.items()}

    def describe_topics(self, topics: TopicCollection, **_: object) -> Mapping[str, Any]:
        return {topic: self._answer(partial(self._describe, topic)) for topic in cast("Any", topics).topic_names}

    def _describe(self, topic: str) -> SimpleNamespace:
        return SimpleNamespace(topic_id=self._broker.topic_id(topic))

    def _bound(self, place: TopicPartition, spec: object) -> SimpleNamespace:
        log = self._broker.log((place.topic, place.partition))
        is_first = spec is EARLIEST
        return SimpleNamespace(offset=log.start if is_first else log.stable_end, leader_epoch=log.leader_epoch)

    def _answer(self, ask: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        rng = self._kernel.rng
        is_lost = self._port.faults.active and rng.random() < 0.1

        def answer() -> None:
            if is_lost:
                future.set_exception(retriable(KafkaError.FENCED_LEADER_EPOCH))
            else:
                future.set_result(ask())

        self._kernel.at(rng.uniform(0.0, 0.5), answer)
        return future


class FakeReader(FakeConsumer):
    """A client that asks for committed offsets and never joins."""

    def poll(self, _timeout_s: float) -> Record | None:
        return None


class NoCancellations:
    """A client of a cancellations topic without partitions."""

    def list_topics(self, topic: str, timeout: float) -> SimpleNamespace:  # noqa: ARG002 - confluent-kafka's names
        return SimpleNamespace(topics={topic: SimpleNamespace(partitions={}, error=None)})

    def poll(self, _timeout_s: float) -> None:
        return None

    def close(self) -> None:
        """There is nothing to close."""


class FakeProducer:
    """A transactional producer, with librdkafka's rules about what may be called again after which error."""

    def __init__(self, broker: Broker, port: Port, config: Mapping[str, Any]) -> None:
        self._broker, self._port = broker, port
        self._tid = str(config["transactional.id"])
        self._timeout_s = config["transaction.timeout.ms"] / 1000
        self._session: Session | None = None
        self._dead: KafkaException | None = None
        self._must_abort = False
        self._begun = False
        self._ended = False
        self._refused: list[Callable[[], None]] = []
        self._written: list[Callable[[], None]] = []

    def init_transactions(self, _timeout_s: float) -> None:
        def init() -> None:
            self._session = self._broker.open_session(self._tid)

        self._call("init", init)

    def begin_transaction(self) -> None:
        self._check()
        assert self._session is not None
        assert not self._begun, "a transaction is open already"
        self._begun, self._ended = True, False
        self._refused.clear()
        self._written.clear()

    def produce(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]],
        on_delivery: Callable[[KafkaError | None, object], None],
        partition: int = -1,
        timestamp: int = 0,
    ) -> None:
        assert self._begun
        refusal = self._broker.refusal_of(topic, value)
        if refusal is not None:
            # As a delivery report that comes with the commit.
            self._refused.append(lambda: on_delivery(refusal, None))
            return

        def write() -> None:
            entry = self._broker.produce(
                self._open(), self._timeout_s, topic, key, value, headers, partition=partition, at_ms=timestamp
            )
            self._written.append(lambda: on_delivery(None, Record(entry)))

        self._call("produce", write, full=True)

    def send_offsets_to_transaction(self, places: list[TopicPartition], group: Membership, _timeout_s: float) -> None:
        assert self._begun
        assert group is not None, "no group metadata"
        positions = {(p.topic, p.partition): (p.offset, p.metadata or "") for p in places}
        leader_epochs: dict[Key, int | None] = {(p.topic, p.partition): p.leader_epoch for p in places}
        self._call(
            "send_offsets",
            lambda: self._broker.send_positions(
                self._open(), self._timeout_s, positions, group.member_id, group.epoch, leader_epochs
            ),
        )

    def commit_transaction(self, _timeout_s: float) -> None:
        assert self._begun
        if self._refused:
            for report in self._refused:
                report()
            self._must_abort = True
            raise abortable(KafkaError.MSG_SIZE_TOO_LARGE)

        def commit() -> None:
            # After an answer that was lost, librdkafka goes on where it was.
            if not self._ended:
                self._broker.commit(self._open())
                self._ended = True

        self._call("commit", commit)
        for report in self._written:
            report()
        self._begun = False

    def abort_transaction(self, _timeout_s: float) -> None:
        assert self._begun
        self._must_abort = False

        def abort() -> None:
            if not self._ended:
                self._broker.abort(self._open())
                self._ended = True

        self._call("abort", abort)
        self._begun = False

    def purge(self) -> None:
        """Nothing waits in this producer: what was produced is at the broker."""

    def flush(self, _timeout_s: float) -> int:
        return 0

    def poll(self, _timeout_s: float) -> int:
        return 0

    def _open(self) -> Session:
        assert self._session is not None
        return self._session

    def _check(self) -> None:
        if self._dead is not None:
            raise self._dead
        if self._must_abort:
            raise abortable(KafkaError._STATE)

    def _call(self, name: str, action: Callable[[], None], *, full: bool = False) -> None:
        self._check()

        def error(fault: Fault) -> Exception | None:
            if full and fault is Fault.RETRIABLE:
                return BufferError("simulated: queue full")
            if self._ended and fault is Fault.ABORTABLE:
                return None  # an abortable error says that the commit did not take place
            return _client_error(fault)

        try:
            self._port.call(name, action, error)
        except KafkaException as raised:
            cause = raised.args[0]
            if cause.fatal():
                self._dead = raised
            self._must_abort = self._must_abort or cause.txn_requires_abort()
            raise


def _client_error(fault: Fault) -> Exception:
    match fault:
        case Fault.ABORTABLE:
            return abortable(KafkaError._MSG_TIMED_OUT)
        case Fault.FATAL | Fault.LOST_FATAL:
            return fatal(KafkaError._FATAL)
        case _:
            return retriable(KafkaError._TIMED_OUT)


def _places(keys: set[Key]) -> list[TopicPartition]:
    return [TopicPartition(*key) for key in sorted(keys)]


def _keys(places: list[TopicPartition]) -> set[Key]:
    return {(place.topic, place.partition) for place in places}
