"""The rows that are in the step scheduler, by lane, and their order: first come first, but for the merged LoRA set."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from worker.engine.schedule.rows import Key, QueuedRow
from worker.errors import ProtocolError
from worker.job import Lane


class Lanes:
    """Holds the rows. Insertion order is arrival order, so the first of a lane is its head.

    `merged` is the set that is merged: its rows go before those of other sets in their lane, while that keeps nobody
    too long. `now` is the time of the last choice.

    Args:
        bounds_s: the waits per lane beyond which its head is overdue.
    """

    def __init__(self, bounds_s: tuple[float, float, float]) -> None:
        self._bounds_s = bounds_s
        self.rows: dict[Key, QueuedRow] = {}
        self.by_lane: dict[Lane, dict[Key, QueuedRow]] = {lane: {} for lane in Lane}
        self.merged: Hashable = None
        self.now = 0.0

    def add(self, row: QueuedRow) -> None:
        """Add a row at the end of its lane."""
        self.rows[row.key] = self.by_lane[row.lane][row.key] = row

    def remove(self, row: QueuedRow) -> None:
        """Take a row out."""
        del self.rows[row.key]
        del self.by_lane[row.lane][row.key]

    def of(self, lane: Lane) -> list[QueuedRow]:
        """The rows of a lane in the order of arrival."""
        return list(self.by_lane[lane].values())

    def head(self, lane: Lane) -> QueuedRow | None:
        """The first row of a lane, if it has one."""
        return next(iter(self.by_lane[lane].values()), None)

    def overdue(self) -> Iterator[QueuedRow]:
        """The heads that have waited beyond their lane's bound."""
        for lane in Lane:
            head = self.head(lane)
            if head is not None and self._is_overdue(head):
                yield head

    def in_order(self, first: Lane = Lane.URGENT) -> Iterator[QueuedRow]:
        """Every row: those of the lane `first`, then the most urgent ones."""
        for lane in sorted(Lane, key=lambda lane: (lane is not first, lane)):
            yield from self.in_order_of(lane)

    def in_order_of(self, lane: Lane) -> Iterator[QueuedRow]:
        """The rows of a lane, first come first; those of the merged set before the first that needs another one.

        Not so once the lane's first row has waited beyond its bound: then first come is first served.
        """
        rows = self.of(lane)
        if self.merged is None or not rows or self._is_overdue(rows[0]):
            yield from rows
            return
        first = next((at for at, row in enumerate(rows) if row.loras not in (None, self.merged)), len(rows))
        yield from rows[:first]
        yield from (row for row in rows[first:] if row.loras == self.merged)
        yield from (row for row in rows[first:] if row.loras != self.merged)

    def check(self) -> None:
        """Raise ProtocolError unless every row is in its own lane, and no other."""
        by_key = {row.key: row for rows in self.by_lane.values() for row in rows.values()}
        if sum(len(rows) for rows in self.by_lane.values()) != len(self.rows) or by_key != self.rows:
            raise ProtocolError("a row is in no lane, or in two")
        if any(row.key not in self.by_lane[row.lane] for row in self.rows.values()):
            raise ProtocolError("a row is in a lane that is not its own")

    def _is_overdue(self, head: QueuedRow) -> bool:
        return head.wait(self.now) > self._bounds_s[head.lane]
