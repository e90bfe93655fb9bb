"""A Kafka broker in memory: partition logs, transactions, and committed offsets."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException

from tests.sim.group import Group, Key, Member
from tests.sim.kernel import Kernel

METADATA_MAX_BYTES = 4_096

Headers = list[tuple[str, bytes | None]]


class State(Enum):
    OPEN = auto()
    COMMITTED = auto()
    ABORTED = auto()


@dataclass(slots=True, eq=False)
class Transaction:
    """`positions` are the offsets that become the group's when it commits, of all members that took part."""

    tid: str
    state: State = State.OPEN
    entries: list[Entry] = field(default_factory=list)
    positions: dict[Key, tuple[int, str]] = field(default_factory=dict)
    leader_epochs: dict[Key, int | None] = field(default_factory=dict)


@dataclass(slots=True)
class Entry:
    """One record in a log."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    at: float
    transaction: Transaction | None = None
    leader_epoch: int = 0

    @property
    def state(self) -> State:
        return State.COMMITTED if self.transaction is None else self.transaction.state


@dataclass(slots=True)
class Log:
    """One partition; offsets that hold no record are transaction markers.

    Args:
        start: what lies below has expired.
        epochs: where each leader epoch begins.
    """

    entries: list[Entry] = field(default_factory=list)
    end: int = 0
    start: int = 0
    epochs: dict[int, int] = field(default_factory=lambda: {0: 0})

    @property
    def leader_epoch(self) -> int:
        return max(self.epochs)

    @property
    def stable_end(self) -> int:
        """What a read_committed consumer takes for the end."""
        return next((entry.offset for entry in self.entries if entry.state is State.OPEN), self.end)

    def epoch_below(self, end: int) -> int:
        """The leader epoch of what stands just below this offset."""
        return max(epoch for epoch, start in self.epochs.items() if start < max(1, end))

    def end_of(self, leader_epoch: int) -> int:
        """OffsetForLeaderEpoch: where the records of this epoch and of those before end."""
        return min((start for epoch, start in self.epochs.items() if epoch > leader_epoch), default=self.end)

    def committed(self, position: int = 0) -> Iterator[Entry]:
        """What a read_committed consumer sees from here: nothing behind the first open transaction."""
        for entry in self.entries:
            if entry.state is State.OPEN:
                return
            if entry.offset >= position and entry.state is State.COMMITTED:
                yield entry


class Auditor(Protocol):
    """Watches everything that becomes durable."""

    def on_positions(self, positions: Collection[Key], member: Member) -> None: ...
    def on_commit(self, transaction: Transaction) -> None: ...


@dataclass(slots=True, eq=False)
class Session:
    """A transactional producer as the broker knows it."""

    tid: str
    epoch: int
    transaction: Transaction | None = None


# For how long a coordinator that has moved tells old offsets, and how old they are.
STALE_S = 2.5
STALE_AGE_S = 1.0


class Broker:
    """Topics of `partitions` partitions each, groups, and the transaction coordinator."""

    def __init__(self, kernel: Kernel, partitions: int, group: Group, auditor: Auditor) -> None:
        self._kernel = kernel
        self._auditor = auditor
        self.group = group
        # All that commit here; no two have a member of the same name.
        self.groups = [group]
        self.partitions = partitions
        self.logs: dict[Key, Log] = {}
        self.positions: dict[Key, tuple[int, str]] = {}
        self.leader_epochs: dict[Key, int | None] = {}
        self.moved_at = -1.0
        # What was committed when, and until when the coordinator tells which of it.
        self._past: list[tuple[float, dict[Key, tuple[int, str]], dict[Key, int | None]]] = [(0.0, {}, {})]
        self._tells_past: tuple[float, dict[Key, tuple[int, str]], dict[Key, int | None]] = (0.0, {}, {})
        # How often each topic was created again.
        self._lives: dict[str, int] = {}
        self._sessions: dict[str, Session] = {}
        self.missing: set[str] = set()
        # The workers have no right on their group.
        self.group_is_forbidden = False
        # Whether the coordinator leaves questions for committed offsets without an answer.
        self.offsets_are_silent = False
        self.max_bytes: dict[str, int] = {}

    def refusal_of(self, topic: str, value: bytes | None) -> KafkaError | None:
        """Why the broker takes no such record; None when it does."""
        if topic in self.missing:
            return KafkaError(KafkaError._UNKNOWN_TOPIC, "simulated")
        if len(value or b"") > self.max_bytes.get(topic, 1 << 20):
            return KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "simulated")
        return None

    def log(self, key: Key) -> Log:
        return self.logs.setdefault(key, Log())

    def record(self, key: Key, offset: int) -> Entry:
        return next(entry for entry in self.log(key).entries if entry.offset == offset)

    def topic(self, topic: str) -> list[Entry]:
        """All that a read_committed consumer sees of a topic."""
        return [entry for n in range(self.partitions) for entry in self.log((topic, n)).committed()]

    def append(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        transaction: Transaction | None = None,
        *,
        partition: int = -1,
        at_ms: int = 0,
    ) -> Entry:
        """Put a record behind the others of its partition: that of its key where none is named."""
        if partition < 0:
            partition = zlib.crc32(key or b"") % self.partitions
        log = self.log((topic, partition))
        at = at_ms / 1000 if at_ms else self._kernel.now
        entry = Entry(topic, partition, log.end, key, value, headers, at, transaction, log.leader_epoch)
        log.entries.append(entry)
        log.end += 1
        if transaction is not None:
            transaction.entries.append(entry)
        return entry

    def lose_end(self, key: Key, end: int) -> None:
        """An unclean leader election: the new leader has nothing from this offset on."""
        log = self.log(key)
        log.entries = [entry for entry in log.entries if entry.offset < end]
        log.end = end
        self._tells_past = (0.0, {}, {})
        log.epochs[log.leader_epoch + 1] = end

    def expire(self, key: Key, start: int) -> None:
        """Retention: what lies below this offset is gone."""
        log = self.log(key)
        log.entries = [entry for entry in log.entries if entry.offset >= start]
        log.start = start

    def topic_id(self, topic: str) -> str:
        return f"{zlib.crc32(topic.encode()):016d}{self._lives.get(topic, 0):06d}"

    def recreate(self, topic: str) -> None:
        """The topic is deleted and created again; the group's offsets survive (tried with Kafka 4.3.1)."""
        self._lives[topic] = self._lives.get(topic, 0) + 1
        for partition in range(self.partitions):
            self.logs[topic, partition] = Log()

    # Transactions.

    def open_session(self, tid: str) -> Session:
        """Fence off the last producer of this id and abort what it left open."""
        old = self._sessions.get(tid)
        if old is not None and old.transaction is not None:
            self._end(old, State.ABORTED)
        session = Session(tid, 0 if old is None else old.epoch + 1)
        self._sessions[tid] = session
        return session

    def begin(self, session: Session, timeout_s: float) -> Transaction:
        """The open transaction of this producer, a new one if there is none."""
        self._check(session)
        if session.transaction is None:
            transaction = session.transaction = Transaction(session.tid)
            self._kernel.at(timeout_s, lambda: self._time_out(session, transaction))
        return session.transaction

    def produce(
        self,
        session: Session,
        timeout_s: float,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        *,
        partition: int = -1,
        at_ms: int = 0,
    ) -> Entry:
        transaction = self.begin(session, timeout_s)
        return self.append(topic, key, value, headers, transaction, partition=partition, at_ms=at_ms)

    def send_positions(
        self,
        session: Session,
        timeout_s: float,
        positions: dict[Key, tuple[int, str]],
        member_id: str,
        epoch: int,
        leader_epochs: dict[Key, int | None] | None = None,
    ) -> None:
        """TxnOffsetCommit: the generation is checked here, ownership nowhere (KAFKA-19779)."""
        transaction = self.begin(session, timeout_s)
        if self.group_is_forbidden:
            raise abortable(KafkaError.GROUP_AUTHORIZATION_FAILED)
        member = self._member(member_id, epoch)
        if any(len(metadata.encode()) > METADATA_MAX_BYTES for _, metadata in positions.values()):
            raise abortable(KafkaError.OFFSET_METADATA_TOO_LARGE)
        transaction.positions |= positions
        transaction.leader_epochs |= leader_epochs or {}
        self._auditor.on_positions(positions, member)

    def commit(self, session: Session) -> None:
        self._check(session)
        self._end(session, State.COMMITTED)

    def abort(self, session: Session) -> None:
        self._check(session)
        self._end(session, State.ABORTED)

    def _end(self, session: Session, state: State) -> None:
        transaction, session.transaction = session.transaction, None
        if transaction is None:
            return
        transaction.state = state
        for key in {(entry.topic, entry.partition) for entry in transaction.entries}:
            self.log(key).end += 1  # the marker
        if state is State.COMMITTED:
            self._auditor.on_commit(transaction)
            self.positions |= transaction.positions
            self.leader_epochs |= transaction.leader_epochs
            self._past.append((self._kernel.now, dict(self.positions), dict(self.leader_epochs)))

    def move_coordinator(self) -> None:
        """It tells what was committed as of an old high watermark for a moment (KAFKA-15910).

        Whoever knew the old one is refused once. Who asks first after the move has been assigned its partitions by the
        new one, whose high watermark had to advance for that.
        """
        rng, now = self._kernel.rng, self._kernel.now
        self.moved_at = now
        as_of = now - rng.uniform(0.0, STALE_AGE_S)
        _, positions, epochs = max((entry for entry in self._past if entry[0] <= as_of), key=lambda entry: entry[0])
        self._tells_past = now + rng.uniform(0.0, STALE_S), positions, epochs

    def told(self, key: Key, client_made_at: float) -> tuple[int, str, int | None] | None:
        """The offset, metadata and leader epoch that the coordinator tells; None for none."""
        until, positions, epochs = self._tells_past
        if self._kernel.now >= until or client_made_at >= self.moved_at:
            positions, epochs = self.positions, self.leader_epochs
        return (*positions[key], epochs.get(key)) if key in positions else None

    def _time_out(self, session: Session, transaction: Transaction) -> None:
        if session.transaction is transaction and self._sessions[session.tid] is session:
            self.open_session(session.tid)

    def _check(self, session: Session) -> None:
        if self._sessions[session.tid] is not session:
            raise fatal(KafkaError._FENCED)

    # Committed offsets.

    def unstable(self, keys: Sequence[Key]) -> bool:
        """Whether an open transaction has offsets of these partitions (UNSTABLE_OFFSET_COMMIT)."""
        open_ones = [s.transaction.positions for s in self._sessions.values() if s.transaction is not None]
        return any(key in positions for positions in open_ones for key in keys)

    def _member(self, member_id: str, epoch: int) -> Member:
        member = next((group.members[member_id] for group in self.groups if member_id in group.members), None)
        if member is None:
            raise abortable(KafkaError.UNKNOWN_MEMBER_ID)
        if member.epoch != epoch:
            raise abortable(KafkaError.ILLEGAL_GENERATION)
        return member


def retriable(code: int) -> KafkaException:
    return KafkaException(KafkaError(code, "simulated", False, True, False))


def abortable(code: int) -> KafkaException:
    return KafkaException(KafkaError(code, "simulated", False, False, True))


def fatal(code: int) -> KafkaException:
    return KafkaException(KafkaError(code, "simulated", True, False, False))
