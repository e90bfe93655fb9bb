"""The simulated broker rejects what Kafka rejects; otherwise the simulation would prove nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError, KafkaException

from tests.sim.audit import Audit
from tests.sim.broker import METADATA_MAX_BYTES, Broker
from tests.sim.group import Group
from tests.sim.kernel import Kernel, Process
from tests.sim.store import Bucket

KEY = ("requests", 0)
TIMEOUT_S = 15.0


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel(0)
    yield kernel
    kernel.close()


@pytest.fixture
def broker(kernel: Kernel) -> Broker:
    audit = Audit(Bucket(), 3)
    audit.broker = Broker(kernel, 1, Group(kernel, 1, 6.0, classic=False), audit)
    return audit.broker


def refused(error: pytest.ExceptionInfo[KafkaException]) -> int:
    code: int = error.value.args[0].code()
    return code


def test_records_behind_an_open_transaction_are_hidden_and_its_marker_leaves_a_gap(broker: Broker) -> None:
    session = broker.open_session("a")
    broker.produce(session, TIMEOUT_S, "out", b"k", b"1", [])
    broker.append("out", b"k", b"2", [])
    assert broker.topic("out") == []
    broker.commit(session)
    broker.append("out", b"k", b"3", [])
    assert [(e.offset, e.value) for e in broker.topic("out")] == [(0, b"1"), (1, b"2"), (3, b"3")]


def test_a_new_producer_of_the_same_id_fences_the_old_one(broker: Broker) -> None:
    old = broker.open_session("a")
    broker.produce(old, TIMEOUT_S, "out", b"k", b"1", [])
    broker.open_session("a")
    with pytest.raises(KafkaException) as error:
        broker.commit(old)
    assert refused(error) == KafkaError._FENCED
    assert error.value.args[0].fatal()
    assert broker.topic("out") == []


def test_a_transaction_times_out(broker: Broker, kernel: Kernel) -> None:
    session = broker.open_session("a")
    broker.produce(session, TIMEOUT_S, "out", b"k", b"1", [])
    kernel.run_for(TIMEOUT_S + 1)
    with pytest.raises(KafkaException):
        broker.commit(session)


def test_offsets_need_the_present_membership(broker: Broker) -> None:
    member = broker.group.join(Process("w"), [KEY[0]])
    broker.group.take_new(member)
    session = broker.open_session("a")
    broker.send_positions(session, TIMEOUT_S, {KEY: (1, "")}, member.id, member.epoch)
    assert broker.unstable([KEY])
    for member_id, epoch, code in (
        (member.id, member.epoch - 1, KafkaError.ILLEGAL_GENERATION),
        ("nobody", member.epoch, KafkaError.UNKNOWN_MEMBER_ID),
    ):
        with pytest.raises(KafkaException) as error:
            broker.send_positions(session, TIMEOUT_S, {KEY: (1, "")}, member_id, epoch)
        assert refused(error) == code
        assert error.value.args[0].txn_requires_abort()


def test_metadata_has_a_limit(broker: Broker) -> None:
    member = broker.group.join(Process("w"), [KEY[0]])
    broker.group.take_new(member)
    with pytest.raises(KafkaException) as error:
        broker.send_positions(
            broker.open_session("a"),
            TIMEOUT_S,
            {KEY: (1, "x" * (METADATA_MAX_BYTES + 1))},
            member.id,
            member.epoch,
        )
    assert refused(error) == KafkaError.OFFSET_METADATA_TOO_LARGE


def test_a_partition_moves_only_when_its_owner_has_let_go_or_is_thrown_out(broker: Broker, kernel: Kernel) -> None:
    group, process = broker.group, Process("b")
    second = group.join(process, [KEY[0]])  # the first to join, but the later id of the two
    assert group.take_new(second) == {KEY}
    first = group.join(Process("a"), [KEY[0]])
    assert group.take_new(first) == set()
    assert second.revoking == {KEY}
    assert second.epoch < group.epoch
    group.released(second)
    assert group.take_new(first) == {KEY}
    first.process.alive = False
    kernel.run_for(10.0)
    assert first.id not in group.members
    assert group.take_new(second) == {KEY}
