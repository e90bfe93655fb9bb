"""Workers as they were before they had a member for each lane: one, which reads all request topics (`--members one`).

For the comparison of how much work is done twice. The group then assigns by `range`, as it did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from confluent_kafka import Consumer, TopicPartition

from worker import connections, kafka_config
from worker.job import Lane


class OneMember:
    """A consumer that three lanes share. It subscribes once all have, and is closed once."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._consumer = Consumer(config)
        self._topics: list[str] = []
        self._closed = False

    def subscribe(self, topics: list[str], **callbacks: Any) -> None:
        self._topics += topics
        if len(self._topics) == len(Lane):
            # They compare what calls back with what they have subscribed.
            own = {name: self._calling(call) for name, call in callbacks.items()}
            self._consumer.subscribe(self._topics, **own)

    def _calling(self, call: Callable[[Any, list[TopicPartition]], None]) -> Callable[[Consumer, Any], None]:
        return lambda _consumer, places: call(self, places)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._consumer.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


def install() -> None:
    """Workers of this process have one member from now on."""
    shared: list[OneMember] = []
    make = kafka_config.consumer_config

    def member(self: connections.RealConnections, lane: Lane) -> Consumer:
        if not shared:
            config = make(self.settings, lane)
            config.pop("partition.assignment.strategy", None)
            shared.append(OneMember(config | {"group.remote.assignor": "range"}))
        return cast("Consumer", shared[0])

    connections.RealConnections.member = member  # type: ignore[method-assign]
