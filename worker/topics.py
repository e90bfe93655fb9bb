"""The Kafka topics: their names, and how each is created."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

DEFAULT_PARTITIONS = 12
DAY_MS = 24 * 60 * 60 * 1000

# Must hold the largest record that a request topic accepts by default, plus the `dlq-*` headers.
DEAD_LETTER_MAX_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True)
class Topics:
    """The names of the topics.

    Args:
        prefix: precedes each of them, on a shared cluster; it includes its dot.
        input: where requests are read: `requests`, or `work`, which dispatchers fill (`docs/dispatch.md`).
    """

    prefix: str = ""
    input: Literal["requests", "work"] = "requests"

    @property
    def urgent(self) -> str:
        """Requests of the urgent lane."""
        return f"{self.prefix}generation.{self.input}.urgent"

    @property
    def high(self) -> str:
        """Requests of the high lane."""
        return f"{self.prefix}generation.{self.input}.high"

    @property
    def normal(self) -> str:
        """Requests of the normal lane."""
        return f"{self.prefix}generation.{self.input}.normal"

    @property
    def completed(self) -> str:
        """Results of jobs whose picture is stored."""
        return f"{self.prefix}generation.completed"

    @property
    def failed(self) -> str:
        """Results of jobs that ended without a picture."""
        return f"{self.prefix}generation.failed"

    @property
    def status(self) -> str:
        """The latest status of each job."""
        return f"{self.prefix}generation.status"

    @property
    def cancellations(self) -> str:
        """Cancellations of jobs; every worker reads the whole topic."""
        return f"{self.prefix}generation.cancellations"

    @property
    def dead_letter(self) -> str:
        """Records that could not be decoded, with their original bytes and headers."""
        return f"{self.prefix}generation.dead-letter"

    @property
    def workers(self) -> str:
        """Reports of the workers to the dispatchers."""
        return f"{self.prefix}generation.workers"

    @property
    def requests(self) -> tuple[str, str, str]:
        """The topics that requests are read from, in lane order: urgent, high, normal."""
        return (self.urgent, self.high, self.normal)

    @property
    def all(self) -> tuple[str, ...]:
        """All topics, the request topics first; that of the reports only where work is read."""
        results = (self.completed, self.failed, self.status)
        reports = (self.workers,) if self.input == "work" else ()
        return (*self.requests, *results, self.cancellations, self.dead_letter, *reports)


@dataclass(frozen=True)
class TopicLayout:
    """The partition count and configuration that a topic is created with."""

    partitions: int
    config: Mapping[str, str]


def layouts(topics: Topics, partitions: int) -> dict[str, TopicLayout]:
    """Return how each topic is created when the request topics have `partitions` partitions each."""
    week = _retained(days=7)
    rare = _retained(days=30) | {"max.message.bytes": str(DEAD_LETTER_MAX_BYTES)}
    is_work = topics.input == "work"
    # A dispatcher adds a header to requests of any size.
    requests = _retained(days=1) | {"max.message.bytes": str(DEAD_LETTER_MAX_BYTES)} if is_work else week
    reports = {"cleanup.policy": "compact,delete", "retention.ms": str(DAY_MS // 24)}
    return {
        **dict.fromkeys(topics.requests, TopicLayout(partitions, requests)),
        **({topics.workers: TopicLayout(1, reports)} if is_work else {}),
        topics.completed: TopicLayout(partitions, week),
        topics.failed: TopicLayout(partitions, week),
        topics.status: TopicLayout(partitions, week | {"cleanup.policy": "compact,delete"}),
        topics.cancellations: TopicLayout(1, _retained(days=1)),
        topics.dead_letter: TopicLayout(1, rare),
    }


def _retained(days: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(days * DAY_MS)}
