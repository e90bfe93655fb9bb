"""The topics in the cluster: creating those that are missing, and describing those that are there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stubs do not mark re-exports
    AdminClient,
    ClusterMetadata,
    ConfigResource,
    OffsetSpec,
    ResourceType,
    TopicMetadata,
)
from confluent_kafka.cimpl import NewTopic

from worker.topics import DEFAULT_PARTITIONS, Topics, layouts

ADMIN_TIMEOUT_S = 30.0
RETRY_PAUSE_S = 0.1

# Errors that brokers return for a short time after a topic was created or a leader has failed.
NOT_YET = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
    }
)

_Offsets = dict[tuple[str, int], int]


class TopicsError(RuntimeError):
    """The topics could not be created or described."""


class TopicMismatchError(TopicsError):
    """The request topics exist with another partition count than requested."""


@dataclass(frozen=True)
class PartitionDescription:
    """One partition: its leader's and replicas' broker ids, and the offsets [low, high) it holds."""

    partition: int
    leader: int | None
    replicas: tuple[int, ...]
    in_sync_replicas: tuple[int, ...]
    low: int
    high: int


@dataclass(frozen=True)
class TopicDescription:
    """The current state of one topic in the cluster.

    `config` holds every setting with its effective value; it is empty if the cluster has no controller to ask, which
    is the case for librdkafka's embedded broker.
    """

    name: str
    partitions: tuple[PartitionDescription, ...]
    config: Mapping[str, str]

    @property
    def partition_count(self) -> int:
        """The number of partitions of the topic."""
        return len(self.partitions)

    @property
    def replication_factor(self) -> int:
        """The number of replicas of each partition (the lowest number, if they differ)."""
        return min(len(partition.replicas) for partition in self.partitions)


def create_topics(
    client: Mapping[str, Any] | str,
    topics: Topics | None = None,
    partitions: int = DEFAULT_PARTITIONS,
    replication_factor: int = 1,
) -> tuple[str, ...]:
    """Create the topics that are missing and return their names; existing topics are not changed.

    Args:
        client: a bootstrap address or an AdminClient configuration.

    Raises:
        TopicMismatchError: a request topic exists with another partition count, and nothing was created; all request
            topics must have the same number of partitions.
        TopicsError: the topics could not be created.
    """
    topics = topics or Topics()
    admin = _admin(client)
    metadata = _metadata(admin)
    _refuse_mismatch(topics, partitions, metadata)
    if not _has_controller(metadata):
        raise TopicsError("the cluster has no controller to create topics (is it librdkafka's embedded broker?)")
    new = [
        NewTopic(name, layout.partitions, replication_factor, config=dict(layout.config))
        for name, layout in layouts(topics, partitions).items()
        if name not in metadata.topics
    ]
    # The controller knows of a topic before the broker that gave the metadata does.
    unseen = _existing(admin, new)
    _refuse_mismatch(topics, partitions, _metadata(admin, unseen))
    new = [topic for topic in new if topic.topic not in unseen]
    created = _create(admin, new) if new else ()
    # Another process may have created some of them meanwhile, with another partition count.
    _refuse_mismatch(topics, partitions, _metadata(admin, topics.requests))
    return created


def _refuse_mismatch(topics: Topics, partitions: int, metadata: ClusterMetadata) -> None:
    present = [metadata.topics[name] for name in topics.requests if name in metadata.topics]
    existing = {str(topic.topic): len(topic.partitions) for topic in present}
    found = ", ".join(f"{name} has {count}" for name, count in existing.items() if count != partitions)
    if found:
        raise TopicMismatchError(
            f"the three request topics must have the same partition count, {partitions} here, but {found}; "
            f"request the count that they have, or change the topics themselves"
        )


def _existing(admin: AdminClient, new: Sequence[NewTopic]) -> list[str]:
    """Which of the topics the controller would not create, because they exist."""
    if not new:
        return []
    futures = admin.create_topics(list(new), validate_only=True, request_timeout=ADMIN_TIMEOUT_S)
    errors = {name: future.exception() for name, future in futures.items()}
    return [
        name
        for name, error in errors.items()
        if isinstance(error, KafkaException) and error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
    ]


def _create(admin: AdminClient, new: Sequence[NewTopic]) -> tuple[str, ...]:
    created: list[str] = []
    timeouts = {"operation_timeout": ADMIN_TIMEOUT_S, "request_timeout": ADMIN_TIMEOUT_S}
    futures = admin.create_topics(list(new), **timeouts)
    for name, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicsError(f"topic {name} could not be created: {error.args[0].str()}") from error
        else:
            created.append(name)
    return tuple(created)


def describe_topics(client: Mapping[str, Any] | str, topics: Topics | None = None) -> tuple[TopicDescription, ...]:
    """Describe the topics that exist, in the order of `Topics.all`; `client` is the same as for `create_topics`."""
    admin = _admin(client)
    metadata = _metadata(admin)
    found = {name: metadata.topics[name] for name in (topics or Topics()).all if name in metadata.topics}
    places = [TopicPartition(name, partition) for name, topic in found.items() for partition in topic.partitions]
    try:
        low = _offsets(admin, places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        high = _offsets(admin, places, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        config = _configs(admin, list(found)) if _has_controller(metadata) else {}
    except KafkaException as error:
        raise TopicsError(f"the topics could not be described: {error.args[0].str()}") from error
    return tuple(_description(name, topic, low, high, config.get(name, {})) for name, topic in found.items())


def _description(
    name: str, topic: TopicMetadata, low: _Offsets, high: _Offsets, config: Mapping[str, str]
) -> TopicDescription:
    partitions = tuple(
        PartitionDescription(
            partition=number,
            leader=partition.leader if partition.leader >= 0 else None,
            replicas=tuple(partition.replicas),
            in_sync_replicas=tuple(partition.isrs),
            low=low[name, number],
            high=high[name, number],
        )
        for number, partition in sorted(topic.partitions.items())
    )
    return TopicDescription(name, partitions, config)


def _offsets(admin: AdminClient, places: Sequence[TopicPartition], spec: OffsetSpec) -> _Offsets:
    """Read one offset of each partition; retry while a broker does not yet know that it leads a new partition."""
    if not places:
        return {}
    deadline = time.monotonic() + ADMIN_TIMEOUT_S
    while True:
        futures = admin.list_offsets(dict.fromkeys(places, spec), request_timeout=ADMIN_TIMEOUT_S)
        try:
            return {(place.topic, place.partition): future.result().offset for place, future in futures.items()}
        except KafkaException as error:
            if error.args[0].code() not in NOT_YET or time.monotonic() > deadline:
                raise
        time.sleep(RETRY_PAUSE_S)


def _configs(admin: AdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    futures = admin.describe_configs(resources, request_timeout=ADMIN_TIMEOUT_S)
    return {
        resource.name: {key: entry.value for key, entry in future.result().items() if entry.value is not None}
        for resource, future in futures.items()
    }


def _admin(client: Mapping[str, Any] | str) -> AdminClient:
    return AdminClient({"bootstrap.servers": client} if isinstance(client, str) else dict(client))


def _has_controller(metadata: ClusterMetadata) -> bool:
    return metadata.controller_id in metadata.brokers


def _metadata(admin: AdminClient, expected: Sequence[str] = ()) -> ClusterMetadata:
    """Return the cluster's metadata, as soon as it names the topics that are `expected` in it."""
    deadline = time.monotonic() + ADMIN_TIMEOUT_S
    while True:
        try:
            metadata = admin.list_topics(timeout=ADMIN_TIMEOUT_S)
        except KafkaException as error:
            raise TopicsError(f"the Kafka cluster did not answer: {error.args[0].str()}") from error
        if all(name in metadata.topics for name in expected) or time.monotonic() > deadline:
            return metadata
        time.sleep(RETRY_PAUSE_S)
