"""An AdminClient of tables, with only what the check asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError, KafkaException


def failed(code: int) -> KafkaException:
    """librdkafka's exception of that code."""
    return KafkaException(KafkaError(code))


def operations(*names: str) -> list[SimpleNamespace]:
    """AclOperations by name."""
    return [SimpleNamespace(name=name) for name in names]


@dataclass
class FakeAdmin:
    """Answers from its tables; an exception in one is raised, a name that is in none is unknown to the broker.

    Args:
        listed: partition counts by topic, as the list of topics tells them.
        described: rights by topic.
        configs: settings by topic or broker id.
    """

    listed: Mapping[str, int]
    described: Mapping[str, list[SimpleNamespace] | Exception | None] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, str] | Exception] = field(default_factory=dict)
    group: list[SimpleNamespace] | Exception | None = None
    brokers: Sequence[int] = (1,)
    controller: int = 1
    unreachable: Sequence[str] = ()
    on_error: Callable[[KafkaError], None] = lambda _error: None
    asked: list[str] = field(default_factory=list)

    def list_topics(self, *, timeout: float) -> SimpleNamespace:
        assert timeout > 0
        if self.unreachable:
            raise failed(KafkaError._TRANSPORT)
        topics = {name: SimpleNamespace(partitions=dict.fromkeys(range(n))) for name, n in self.listed.items()}
        return SimpleNamespace(topics=topics, brokers=dict.fromkeys(self.brokers), controller_id=self.controller)

    def poll(self, _timeout: float) -> None:
        for reason in self.unreachable:
            self.on_error(KafkaError(KafkaError._TRANSPORT, reason))

    def describe_topics(
        self, topics: Any, *, include_authorized_operations: bool, request_timeout: float
    ) -> dict[str, Future[Any]]:
        assert include_authorized_operations
        assert request_timeout > 0
        self.asked.append("topics")
        return {name: self._topic(name) for name in topics.topic_names}

    def _topic(self, name: str) -> Future[Any]:
        rights = self.described.get(name)
        if isinstance(rights, Exception):
            return _future(rights)
        if name not in self.listed:
            return _future(failed(KafkaError.UNKNOWN_TOPIC_OR_PART))
        partitions = list(range(self.listed[name]))
        return _future(SimpleNamespace(partitions=partitions, authorized_operations=rights))

    def describe_consumer_groups(
        self, groups: Sequence[str], *, include_authorized_operations: bool, request_timeout: float
    ) -> dict[str, Future[Any]]:
        assert include_authorized_operations
        assert request_timeout > 0
        [name] = groups
        is_error = isinstance(self.group, Exception)
        return {name: _future(self.group if is_error else SimpleNamespace(authorized_operations=self.group))}

    def describe_configs(self, resources: Sequence[Any], *, request_timeout: float) -> dict[Any, Future[Any]]:
        assert request_timeout > 0
        kinds = [resource.restype.name for resource in resources]
        assert kinds.count("BROKER") <= 1, "librdkafka asks one broker a call"
        return {resource: self._config(resource.name) for resource in resources}

    def _config(self, name: str) -> Future[Any]:
        entries = self.configs.get(name, failed(KafkaError.CLUSTER_AUTHORIZATION_FAILED))
        if isinstance(entries, Exception):
            return _future(entries)
        return _future({key: SimpleNamespace(value=value) for key, value in entries.items()})


def _future(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
    return future
