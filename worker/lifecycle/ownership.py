"""Whether a job's record is still this worker's. Any thread may ask."""

from __future__ import annotations

from collections.abc import Sequence

from worker.intake.ledger import Ledger
from worker.intake.ledger import TopicPartition as Key
from worker.job import Origin


class Ownership:
    """Asks the ledger, under its lock."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def is_owned(self, origin: Origin) -> bool:
        """Whether the record is ours, so that an outcome may be published."""
        with self._ledger.lock:
            return self._ledger.owns(origin)

    def is_wanted(self, origin: Origin) -> bool:
        """Whether it is ours and its partition is not about to go, so that more may be done for it."""
        with self._ledger.lock:
            return self._ledger.owns(origin) and not self._ledger.is_closing(origin)

    def unfinished(self, partitions: Sequence[Key]) -> int:
        """Records of these partitions between delivery and commit."""
        with self._ledger.lock:
            return self._ledger.unfinished(partitions)
