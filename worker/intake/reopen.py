"""Opens partitions again that bring nothing although they hold more (`standstill`)."""

from __future__ import annotations

from collections.abc import Collection

import structlog
from confluent_kafka import KafkaException, TopicPartition

from worker.intake.lane_members import LaneMembers
from worker.intake.ledger import Ledger
from worker.intake.ledger import TopicPartition as Key
from worker.intake.positions import place
from worker.intake.standstill import Progress, Standstill
from worker.telemetry import metrics

_log = structlog.get_logger()

LOOK_S = 5.0


class Reopener:
    """The poll thread's."""

    def __init__(self, members: LaneMembers, ledger: Ledger) -> None:
        self._members = members
        self._ledger = ledger
        self._standstill = Standstill()
        self._looked_at = 0.0

    def look(self, paused: Collection[Key], now: float) -> None:
        """Look every `LOOK_S` seconds.

        Args:
            paused: partitions that we have paused ourselves.
        """
        if now < self._looked_at + LOOK_S:
            return
        self._looked_at = now
        with self._ledger.lock:
            read = {key: self._ledger.next_offset(key) for key in self._ledger.partitions() if key not in paused}
            leader_epochs = {key: self._ledger.leader_epoch(key) for key in read}
        progress = {key: Progress(position, self._end(key)) for key, position in read.items()}
        for key in self._standstill.find(progress, now):
            position = progress[key].position
            _log.warning("partition_reopened", topic=key[0], partition=key[1], position=position)
            metrics.REOPENED.inc()
            # Each on its own may be taken for done: librdkafka drops one that another has overtaken.
            self._members.pause([TopicPartition(*key)])
            self._members.resume([TopicPartition(*key)])
            if position is not None:
                # With the epoch: a seek without one would end a comparison of epochs that is under way.
                self._seek(place(*key, position, leader_epochs[key]))

    def _seek(self, to: TopicPartition) -> None:
        try:
            self._members.seek(to)
        except KafkaException as error:
            _log.warning("seek_failed", topic=to.topic, partition=to.partition, error=str(error))

    def _end(self, key: Key) -> int | None:
        answer = self._members.watermarks(*key)
        if answer is None or answer[1] < 0:
            return None
        low, high = answer
        return 0 if low == high else high
