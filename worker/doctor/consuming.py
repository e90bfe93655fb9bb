"""Reads as a worker does: the group's committed offsets, and the end of every topic that is consumed."""

from __future__ import annotations

import time
from collections.abc import Iterator

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from worker import kafka_config
from worker.doctor.finding import Finding, failed, ok, skipped
from worker.settings import Settings
from worker.topics import Topics

SUBJECT = "consuming"
CALL_S = 8.0
# All the partitions together.
FETCH_S = 15.0
_SILENT = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE})


def check(settings: Settings) -> Iterator[Finding]:
    """Fetch at the end of each partition, outside the group, and commit nothing."""
    topics = Topics(settings.kafka_topic_prefix, settings.input)
    names = (*topics.requests, topics.cancellations)
    own = {
        "error_cb": lambda _error: None,
        "enable.partition.eof": True,
        "auto.offset.reset": "latest",
        "allow.auto.create.topics": False,
    }
    consumer = Consumer(kafka_config.offsets_reader_config(settings) | own)
    try:
        known = consumer.list_topics(timeout=CALL_S).topics
    except KafkaException:
        yield skipped(SUBJECT, "not tried, since no broker answers")
        return
    try:
        places = [(name, number) for name in names if name in known for number in known[name].partitions]
        if not places:
            yield skipped(SUBJECT, "not tried, since there are no topics to read")
            return
        yield from _committed(consumer, settings.kafka_group_id, places)
        yield from _ends(consumer, places)
    except KafkaException as error:
        yield failed(SUBJECT, f"reading failed: {error.args[0].str()}", "see the lines about broker and rights")


def _committed(consumer: Consumer, group: str, places: list[tuple[str, int]]) -> Iterator[Finding]:
    requests = [TopicPartition(*place) for place in places]
    try:
        answers = consumer.committed(requests, timeout=CALL_S)
    except KafkaException as error:
        yield failed(
            "group",
            f"the offsets of the group {group} cannot be read: {error.args[0].str()}",
            f"grant READ and DESCRIBE on the group {group}, and see that __consumer_offsets has leaders",
        )
        return
    committed = sum(answer.offset >= 0 for answer in answers)
    yield ok("group", f"the offsets of the group {group} can be read ({committed} of {len(answers)} committed)")


def _ends(consumer: Consumer, places: list[tuple[str, int]]) -> Iterator[Finding]:
    consumer.assign([TopicPartition(*place, OFFSET_END) for place in places])
    left, reasons = set(places), dict[str, str]()
    deadline = time.monotonic() + FETCH_S
    while left and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        error = None if message is None else message.error()
        if message is None:
            continue
        if error is None or error.code() == KafkaError._PARTITION_EOF:
            left.discard((str(message.topic()), message.partition() or 0))
        elif error.code() not in _SILENT:
            reasons[str(message.topic())] = error.str()
            left = {place for place in left if place[0] != message.topic()}
    for topic, reason in sorted(reasons.items()):
        yield failed(SUBJECT, f"{topic} cannot be read: {reason}", "grant READ on it to this Kafka user")
    if left:
        topic, number = min(left)
        yield failed(
            SUBJECT,
            f"{len(left)} of {len(places)} partitions did not answer, such as {topic}/{number}",
            "see that their leaders are up, and that this machine reaches every broker by its advertised address",
        )
    if not left and not reasons:
        yield ok(SUBJECT, f"all {len(places)} partitions of {len({name for name, _ in places})} topics answer")
