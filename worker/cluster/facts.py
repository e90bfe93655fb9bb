"""Asks the cluster about the worker's topics, rights and limits. What it does not tell stays unknown, and is no error.

Only questions that create nothing are asked: a look-up of one topic by name would create it on brokers with
`auto.create.topics.enable`, while the list of all topics and DescribeTopics do not.

Rights on the transactional id cannot be described; they show when the producer opens
(`TRANSACTIONAL_ID_AUTHORIZATION_FAILED`). The group can be described only once brokers have a coordinator for it, which
a fresh cluster lacks until its first consumer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stubs do not mark re-exports
    AdminClient,
    ClusterMetadata,
    ConfigResource,
    ResourceType,
)

from worker.errors import WorkerError

T = TypeVar("T")

_log = structlog.get_logger()

# One call of librdkafka, short since Python hears signals only in between.
SLICE_S = 1.0
# The answers about details, all asked at once.
DETAILS_TIMEOUT_S = 5.0
# A fresh cluster has no coordinator to ask, and librdkafka looks for one until the time is up.
GROUP_TIMEOUT_S = 2.0
# librdkafka's own timeout comes first; this one is for a future that nobody completes.
_GRACE_S = 1.0
# Every broker has its own configuration. Large clusters are set up alike, so a few are enough.
BROKERS_ASKED_MAX = 3

ErrorCallback = Callable[[KafkaError], None]
MakeAdmin = Callable[[ErrorCallback], AdminClient]


class ClusterUnavailable(WorkerError):
    """No broker has answered; the message is librdkafka's reason."""


class Presence(Enum):
    """Whether a topic is there, as far as this user may know."""

    PRESENT = auto()
    MISSING = auto()
    # This user may not see it: it exists or not.
    HIDDEN = auto()
    # Not in the list of topics, and nobody could be asked why.
    UNSEEN = auto()


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What is known of one topic; `None` is unknown.

    Args:
        rights: names of the operations that this user may carry out, such as READ and WRITE.
        max_message_bytes: the topic's effective `max.message.bytes`.
    """

    presence: Presence
    partitions: int = 0
    rights: frozenset[str] | None = None
    max_message_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What is known of the cluster; `None` is unknown.

    Args:
        others: the other topics that this user can see.
        group_rights: operations on the consumer group.
        offset_metadata_max_bytes: the smallest `offset.metadata.max.bytes` of the brokers that were asked.
    """

    topics: Mapping[str, TopicFacts]
    others: frozenset[str] = frozenset()
    group_rights: frozenset[str] | None = None
    offset_metadata_max_bytes: int | None = None


def ask(make_admin: MakeAdmin, topics: Iterable[str], group: str, timeout_s: float) -> ClusterFacts:
    """Ask the cluster with a client of its own; takes `timeout_s` and the time for the details at most.

    Args:
        make_admin: makes the client around a callback for its errors.

    Raises:
        ClusterUnavailable: no broker has answered in time.
    """
    reasons: list[str] = []
    admin = make_admin(lambda error: reasons.append(error.str()))
    metadata = _metadata(admin, reasons, timeout_s)
    found = {name: _listed(metadata, name) for name in topics}
    others = frozenset(metadata.topics) - set(found)
    # librdkafka's embedded broker has no controller, and without one the other questions get no answer.
    if metadata.controller_id not in metadata.brokers:
        return ClusterFacts(found, others)
    try:
        return _details(admin, found, others, group, sorted(metadata.brokers)[:BROKERS_ASKED_MAX])
    except KafkaException as error:
        # A question that librdkafka does not even send; the answers to one that it does are dealt with below.
        _log.warning("cluster_not_described", error=str(error))
        return ClusterFacts(found, others)


def _details(
    admin: AdminClient, listed: Mapping[str, TopicFacts], others: frozenset[str], group: str, brokers: list[int]
) -> ClusterFacts:
    """Everything but the list of topics, asked at once."""
    described = admin.describe_topics(
        TopicCollection(list(listed)),
        include_authorized_operations=True,
        request_timeout=DETAILS_TIMEOUT_S,
    )
    groups = admin.describe_consumer_groups(
        [group], include_authorized_operations=True, request_timeout=GROUP_TIMEOUT_S
    )
    configs = _topic_configs(admin, [name for name, topic in listed.items() if topic.presence is Presence.PRESENT])
    limits = [_number(config, "offset.metadata.max.bytes") for config in [_broker_config(admin, n) for n in brokers]]
    return ClusterFacts(
        {name: _topic(topic, described.get(name), configs.get(name)) for name, topic in listed.items()},
        others,
        _group_rights(groups[group]),
        min((limit for limit in limits if limit is not None), default=None),
    )


def _metadata(admin: AdminClient, reasons: list[str], timeout_s: float) -> ClusterMetadata:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return admin.list_topics(timeout=SLICE_S)
        except KafkaException as error:
            # The errors of connections say more than the answer to the call does.
            admin.poll(0)
            if time.monotonic() >= deadline:
                raise ClusterUnavailable(_reason(reasons) or f"no answer ({error.args[0].str()})") from error


def _reason(errors: list[str]) -> str | None:
    """The last error of a connection; "all brokers are down" only repeats that there was one."""
    told = [error for error in errors if "brokers are down" not in error] or errors
    return told[-1] if told else None


def _listed(metadata: ClusterMetadata, name: str) -> TopicFacts:
    topic = metadata.topics.get(name)
    # A topic whose metadata holds an error is there, with partitions that are not known yet.
    return TopicFacts(Presence.UNSEEN) if topic is None else TopicFacts(Presence.PRESENT, len(topic.partitions))


def _topic(listed: TopicFacts, described: Future[Any] | None, config: Future[Any] | None) -> TopicFacts:
    answer, error = _answer(described)
    limit = _number(config, "max.message.bytes")
    if answer is not None:
        return TopicFacts(Presence.PRESENT, len(answer.partitions), _rights(answer), limit)
    match error:
        case KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return TopicFacts(Presence.HIDDEN)
        # The second: no topic can have such a name.
        case KafkaError.UNKNOWN_TOPIC_OR_PART | KafkaError.TOPIC_EXCEPTION:
            return TopicFacts(Presence.MISSING)
    return TopicFacts(listed.presence, listed.partitions, None, limit)


def _group_rights(described: Future[Any]) -> frozenset[str] | None:
    answer, error = _answer(described)
    # The right to read includes the one to describe.
    return frozenset() if error == KafkaError.GROUP_AUTHORIZATION_FAILED else _rights(answer)


def _rights(description: Any) -> frozenset[str] | None:
    """None where the broker does not tell (before 2.3). An empty list says that too: a description needs a right."""
    operations = getattr(description, "authorized_operations", None)
    return frozenset(operation.name for operation in operations) if operations else None


def _topic_configs(admin: AdminClient, names: list[str]) -> dict[str, Future[Any]]:
    if not names:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    futures = admin.describe_configs(resources, request_timeout=DETAILS_TIMEOUT_S)
    return {resource.name: future for resource, future in futures.items()}


def _broker_config(admin: AdminClient, number: int) -> Future[Any]:
    # One a call: librdkafka sends the question to the broker that it is about.
    resource = ConfigResource(ResourceType.BROKER, str(number))
    return admin.describe_configs([resource], request_timeout=DETAILS_TIMEOUT_S)[resource]


def _number(config: Future[Any] | None, name: str) -> int | None:
    """A number of a described configuration; None where it may not be seen."""
    entries, _ = _answer(config)
    value = None if entries is None or name not in entries else entries[name].value
    return int(value) if value is not None and value.isdecimal() else None


def _answer(future: Future[T] | None) -> tuple[T | None, int | None]:
    """What a future holds, or the code of its error."""
    if future is None:
        return None, None
    try:
        return future.result(DETAILS_TIMEOUT_S + _GRACE_S), None
    except KafkaException as error:
        return None, error.args[0].code()
    except TimeoutError:
        return None, KafkaError._TIMED_OUT
