"""The producer against librdkafka's mock broker, while the transaction coordinator is not available yet."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition, cimpl

from devtools.local.embedded import EmbeddedBroker
from worker.delivery.exactly_once import TRANSACTION_CONFIG, ExactlyOnce
from worker.delivery.producer import LEFT_BEHIND_MAX, CallsLeftBehind, TransactionalProducer
from worker.delivery.transport import Encoded, Offset, TryAgain

FIND_COORDINATOR = 10
RECORD = Encoded("letters", b"key", b"value", [])


class Group:
    """The membership of a consumer that has joined, and whether the coordinator answers another client."""

    def __init__(self, consumer: Consumer) -> None:
        self.answers = True
        self.asked = 0
        self.membership = {"letters": consumer.consumer_group_metadata()}

    def commit(self, offsets: Any) -> None:
        raise AssertionError(f"exactly-once commits by the producer, not {offsets}")

    def committed(self, partitions: Any, timeout_s: float) -> list[TopicPartition]:
        self.asked += 1
        if not self.answers:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no answer within {timeout_s} s"))
        return list(partitions)


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as running:
        running.create_topic("letters", 1)
        yield running
        bounce(running)


@pytest.fixture
def group(broker: EmbeddedBroker) -> Iterator[Group]:
    consumer = Consumer(quiet(broker) | {"group.id": "g"})
    consumer.subscribe(["letters"])
    consumer.poll(1)
    yield Group(consumer)
    consumer.close()


def quiet(broker: EmbeddedBroker) -> dict[str, Any]:
    return {"bootstrap.servers": broker.bootstrap_servers, "log_level": 0}


def make(broker: EmbeddedBroker) -> TransactionalProducer:
    return TransactionalProducer(quiet(broker) | TRANSACTION_CONFIG | {"transactional.id": "t"})


def hide_coordinator(broker: EmbeddedBroker, answers: int) -> None:
    """Let the next questions for a coordinator be answered with COORDINATOR_NOT_AVAILABLE."""
    push = ctypes.CDLL(cimpl.__file__).rd_kafka_mock_push_request_errors_array
    push.restype, push.argtypes = None, [ctypes.c_void_p, ctypes.c_int16, ctypes.c_size_t, ctypes.c_void_p]
    push(
        broker._running(),
        FIND_COORDINATOR,
        answers,
        (ctypes.c_int * answers)(*[KafkaError.COORDINATOR_NOT_AVAILABLE] * answers),
    )


def bounce(broker: EmbeddedBroker) -> None:
    """End the calls that were left behind: any connection that comes or goes does."""
    broker.take_down(1)
    broker.bring_up(1)
    for thread in calls_under_way():
        thread.join(10)
    assert not calls_under_way()


def calls_under_way() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "offsets"]


def test_a_coordinator_that_never_comes_does_not_hold_the_call(broker: EmbeddedBroker, group: Group) -> None:
    producer = make(broker)
    producer.init_transactions(10)
    producer.begin_transaction()
    hide_coordinator(broker, 3)
    before = time.monotonic()
    with pytest.raises(KafkaException) as raised:
        producer.send_offsets_to_transaction([TopicPartition("letters", 0, 1)], group.membership["letters"], 0.5)
    assert raised.value.args[0].code() == KafkaError._TIMED_OUT
    assert time.monotonic() - before < 5
    assert calls_under_way(), "librdkafka keeps its timeout: the class is not needed any more"


def test_a_flush_that_got_no_answer_is_sent_anew_by_a_new_producer(
    broker: EmbeddedBroker, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.delivery.exactly_once.TRANSACTION_CALL_TIMEOUT_S", 0.5)
    transport = ExactlyOnce(lambda: make(broker), group)
    transport.open()
    offsets = [Offset("letters", 0, 1, "", finishing=True)]
    hide_coordinator(broker, 3)
    with pytest.raises(TryAgain):
        transport.send([RECORD], offsets, transport.membership())
    group.answers = False
    for _ in range(3):
        with pytest.raises(TryAgain):
            transport.prepare(again=True)
    assert len(calls_under_way()) == 1, "a try without a coordinator costs a producer and its threads"
    group.answers = True
    transport.prepare(again=True)
    transport.send([RECORD], offsets, transport.membership(), again=True)
    assert group.asked == 4
    transport.close()


def test_calls_that_do_not_return_are_bounded() -> None:
    over = threading.Event()
    threads = [threading.Thread(target=over.wait, name="offsets", daemon=True) for _ in range(LEFT_BEHIND_MAX)]
    for thread in threads:
        thread.start()
    producer = TransactionalProducer({"bootstrap.servers": "127.0.0.1:1", "log_level": 0, "transactional.id": "t"})
    with pytest.raises(CallsLeftBehind):
        producer.send_offsets_to_transaction([TopicPartition("letters", 0, 1)], None, 0.1)
    over.set()
    for thread in threads:
        thread.join()


def test_offsets_that_are_refused_raise_what_the_library_says(broker: EmbeddedBroker, group: Group) -> None:
    producer = make(broker)
    producer.init_transactions(10)
    with pytest.raises(KafkaException) as raised:
        producer.send_offsets_to_transaction([TopicPartition("letters", 0, 1)], group.membership["letters"], 5)
    assert raised.value.args[0].code() == KafkaError._STATE
