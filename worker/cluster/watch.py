"""Looks at the cluster again on trouble, and says what of readiness is Kafka's part. A thread of its own."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, Protocol

import structlog
from confluent_kafka import KafkaError

from worker.cluster.check import Problem
from worker.cluster.contact import Contact
from worker.cluster.facts import ClusterUnavailable
from worker.telemetry import metrics

_log = structlog.get_logger()

# Kafka that has been silent for so long is down. Above the statistics' interval and the bounded wait of a revoke,
# during which none arrive, below the session timeout of most groups.
DOWN_AFTER_S = 30.0
# Before that, the cluster is asked: while the poll thread is busy there are no statistics, and Kafka is well.
SILENT_AFTER_S = 12.0
NO_ASSIGNMENT_AFTER_S = 30.0
CHECK_INTERVAL_S = 10.0
# Without any sign of trouble: with KIP-848 a topic may go without an error anywhere.
RECHECK_AFTER_S = 300.0
CHECK_TIMEOUT_S = 8.0
TELL_AGAIN_S = 60.0

# Errors of a consumer that the cluster's state explains.
TROUBLE = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    }
)


class Cluster(Protocol):
    """The cluster as the watch needs it."""

    @property
    def servers(self) -> str:
        """Its addresses."""

    @property
    def contact(self) -> Contact:
        """When it has last answered."""

    def check(self, timeout_s: float) -> list[Problem]:
        """What is wrong with it; waits `timeout_s` for a broker. Raises ClusterUnavailable."""


class ClusterWatch:
    """`tick` belongs to one thread, everything else to any.

    Args:
        clock: seconds that only ever go forward.
        is_assigned: whether the group has given this worker its partitions, be it none.
        is_failing: whether publishing fails again and again.
    """

    def __init__(
        self,
        cluster: Cluster,
        clock: Callable[[], float],
        *,
        is_assigned: Callable[[], bool],
        is_failing: Callable[[], bool],
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._is_assigned = is_assigned
        self._is_failing = is_failing
        self._problems: list[str] = []
        self._trouble = threading.Event()
        self._began = self._assigned_at = clock()
        self._checked_at: float | None = None
        self._told_at: float | None = None

    def on_error(self, error: KafkaError) -> None:
        """A client's error; some are a reason to look at the cluster."""
        if error.code() in TROUBLE:
            self._trouble.set()

    def on_rebalance(self) -> None:
        """Partitions have moved. With KIP-848 that is all that a member hears of a topic being deleted (tried)."""
        self._trouble.set()

    def tick(self) -> bool:
        """Set the gauges, and check the cluster when that is due; False when it was not."""
        now = self._clock()
        if self._is_assigned():
            self._assigned_at = now
        metrics.KAFKA_UP.set(self._silent_s(now) <= DOWN_AFTER_S)
        metrics.KAFKA_ANSWER_AGE.set(self._silent_s(now))
        if not self._is_due(now):
            return False
        self._trouble.clear()
        self._check()
        self._checked_at = self._clock()
        return True

    def wait(self, timeout_s: float) -> None:
        """Sleep until something may have to be looked at, at most `timeout_s`."""
        # Not until the next trouble: a stream of errors must not turn the loop into a busy one.
        threading.Event().wait(timeout_s)

    def not_ready(self) -> list[str]:
        """Why Kafka keeps the worker from working; empty when it does not."""
        now = self._clock()
        reasons = []
        if self._cluster.contact.at is None:
            reasons.append("Kafka has not answered yet")
        elif self._silent_s(now) > DOWN_AFTER_S:
            reasons.append(f"Kafka has not answered for {self._silent_s(now):.0f} s")
        if not self._is_assigned():
            reasons.append("the consumer group has not assigned partitions to this worker yet")
        return reasons + self._problems

    def facts(self) -> dict[str, Any]:
        """What `/health` tells about the cluster."""
        at = self._cluster.contact.at
        age = None if at is None else round(max(0.0, self._clock() - at), 1)
        return {"kafka_answered_s_ago": age, "cluster_problems": list(self._problems)}

    def _silent_s(self, now: float) -> float:
        at = self._cluster.contact.at
        return max(0.0, now - (self._began if at is None else at))

    def _is_due(self, now: float) -> bool:
        since = math.inf if self._checked_at is None else now - self._checked_at
        if since < CHECK_INTERVAL_S:
            return False
        return (
            self._trouble.is_set()
            or since >= RECHECK_AFTER_S
            or bool(self._problems)
            or self._is_failing()
            or self._silent_s(now) > SILENT_AFTER_S
            or now - self._assigned_at > NO_ASSIGNMENT_AFTER_S
        )

    def _check(self) -> None:
        try:
            found = [problem.text for problem in self._cluster.check(CHECK_TIMEOUT_S)]
        except ClusterUnavailable as error:
            # What was wrong may still be so, and cannot be asked now.
            self._trouble.set()
            self._tell_outage(str(error))
            return
        self._cluster.contact.answered(self._clock())
        if self._told_at is not None:
            self._told_at = None
            _log.info("kafka_answers_again")
        if found != self._problems:
            level = _log.error if found else _log.info
            level("cluster_problems", problems=found)
        self._problems = found
        metrics.CLUSTER_PROBLEMS.set(len(found))

    def _tell_outage(self, reason: str) -> None:
        now = self._clock()
        if self._told_at is None or now - self._told_at >= TELL_AGAIN_S:
            self._told_at = now
            silent_s = round(self._silent_s(now))
            _log.warning("kafka_unavailable", servers=self._cluster.servers, reason=reason, silent_s=silent_s)
