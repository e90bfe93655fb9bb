"""How far each partition is delivered, and so what may be committed. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

Partition = tuple[str, int]


@dataclass(slots=True)
class _Books:
    """Offsets in the order in which they came, and whether each is finished."""

    offsets: dict[int, bool] = field(default_factory=dict)
    position: int | None = None
    committed: int | None = None


class Progress:
    """The lowest unfinished offset of each assigned partition."""

    def __init__(self) -> None:
        self._books: dict[Partition, _Books] = {}

    def begin(self, partition: Partition, offset: int) -> None:
        """A record was read; it counts as unfinished until `finish`."""
        books = self._books.setdefault(partition, _Books())
        books.offsets[offset] = False
        books.position = offset + 1

    def finish(self, partition: Partition, offset: int) -> None:
        """Nothing more is to be done for a record; what is not known any more is ignored."""
        books = self._books.get(partition)
        if books is None or offset not in books.offsets:
            return
        books.offsets[offset] = True
        while books.offsets and books.offsets[lowest := next(iter(books.offsets))]:
            del books.offsets[lowest]

    def reach_end(self, partition: Partition, offset: int) -> None:
        """The partition was read to its end, which lies above the last record where that is a transaction's marker."""
        self._books.setdefault(partition, _Books()).position = offset

    def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offsets that may be committed of these partitions, as far as they are known."""
        found = {}
        for partition in partitions:
            books = self._books.get(partition)
            offset = None if books is None else next(iter(books.offsets), books.position)
            if offset is not None:
                found[partition] = offset
        return found

    def to_commit(self) -> dict[Partition, int]:
        """Those of all partitions that have moved since `committed`."""
        found = self.positions(self._books)
        return {partition: offset for partition, offset in found.items() if offset != self._books[partition].committed}

    def committed(self, offsets: dict[Partition, int]) -> None:
        """These offsets were committed, or are on their way."""
        for partition, offset in offsets.items():
            if partition in self._books:
                self._books[partition].committed = offset

    def forget(self, partitions: Iterable[Partition]) -> None:
        """The partitions are no longer ours."""
        for partition in partitions:
            self._books.pop(partition, None)

    def length(self, partition: Partition) -> int:
        """Records from the lowest unfinished one on."""
        books = self._books.get(partition)
        return 0 if books is None else len(books.offsets)
