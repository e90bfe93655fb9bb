"""How many bytes of each partition a dispatcher holds: records are small, but a producer may write large ones. Pure."""

from __future__ import annotations

from collections import Counter

from worker.intake.ledger import TopicPartition as Key
from worker.intake.records import Record
from worker.job import Origin

# A full buffer of common requests is less than a tenth of that.
PARTITION_BYTES_MAX = 4 * 1024 * 1024


class BytesInHand:
    """Records that were read, until they are durable elsewhere or given up."""

    def __init__(self) -> None:
        self._of_record: dict[Origin, int] = {}
        self._of_partition: Counter[Key] = Counter()

    def enter(self, origin: Origin, record: Record) -> None:
        """Count a record; once only, however often it is entered."""
        self.leave(origin)
        held = self._of_record[origin] = _size(record)
        self._of_partition[origin.topic, origin.partition] += held

    def leave(self, origin: Origin) -> None:
        """A record is not held any more; unknown ones are ignored."""
        held = self._of_record.pop(origin, None)
        if held is None:
            return
        key = origin.topic, origin.partition
        self._of_partition[key] -= held
        if not self._of_partition[key]:
            del self._of_partition[key]

    def are_too_many(self, partition: Key) -> bool:
        """Whether no more of a partition should be read for now."""
        return self._of_partition[partition] >= PARTITION_BYTES_MAX


def _size(record: Record) -> int:
    headers = sum(len(name) + len(value or "") for name, value in record.headers or ())
    return len(record.key or b"") + len(record.value or b"") + headers
