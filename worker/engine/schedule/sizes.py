"""How many rows a step may have and should have, and how long a step of so many rows takes."""

from __future__ import annotations

from worker.engine.cost import CostModel, Group


class StepSizes:
    """Sizes by group; a padded step takes the time of a full one.

    Args:
        rows_max: rows that one step may have at most. It may change; a group's calls may hold fewer.
    """

    def __init__(self, cost: CostModel, rows_max: int) -> None:
        self._cost = cost
        self.rows_max = rows_max

    def rows_at_most(self, group: Group) -> int:
        """The rows that one step of the group may have."""
        return group.rows(self.rows_max)

    def limit(self, group: Group) -> int:
        """The rows that one step of the group should have: all that fit a padded one, else what is fastest."""
        most = self.rows_at_most(group)
        return most if group.samples is not None else self._cost.best_rows(group, most)

    def observe(self, group: Group, rows: int, seconds: float) -> None:
        """Record that a step of `rows` rows took `seconds`."""
        self._cost.observe(group, self._charged(group, rows), seconds)

    def step_seconds(self, group: Group, rows: int) -> float | None:
        """What to expect of a step of `rows` rows; None where too little was measured."""
        return self._cost.step_seconds(group, self._charged(group, rows))

    def least_seconds(self, group: Group) -> float:
        """The least time that any step of the group took; 0 where too few were measured."""
        most = self.rows_at_most(group)
        if group.samples is None:
            return self._cost.least_seconds_at_most(group, most)
        return self._cost.least_seconds(group, most)

    def least_seconds_per_row(self, group: Group) -> float:
        """The least part of a step's time that a row of the group took; 0 where too few were measured."""
        most = self.rows_at_most(group)
        if group.samples is None:
            return self._cost.least_seconds_per_row(group, most)
        return self._cost.least_seconds(group, most) / most

    def _charged(self, group: Group, rows: int) -> int:
        """The rows that a step of `rows` rows takes the time of."""
        return rows if group.samples is None else self.rows_at_most(group)
