"""Says to who waits for a job that no worker is there to make it."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka.admin import AdminClient

from worker.cli.output import note_console
from worker.client.connection import Connection
from worker.cluster.group import member_names

# Nothing is heard of a job for so long when workers are there and busy, too; then nothing is said.
SILENCE_S = 3.0
# How often the group is asked again, in case the last worker has gone since.
AGAIN_S = 10.0
ANSWER_S = 1.5

Members = Callable[[], tuple[str, ...] | None]


class Absence:
    """Asks who is in the workers' group when nothing is heard of the jobs, and says so if nobody is.

    Args:
        now: seconds of a steady clock.
        members: replaces the question in tests.
    """

    def __init__(self, connection: Connection, now: float, members: Members | None = None) -> None:
        self._group = connection.settings.kafka_group_id
        self._connection = connection
        self._members = members or self._ask
        self._admin: AdminClient | None = None
        self._look_at = now + SILENCE_S
        self._told = False

    def heard(self, now: float) -> None:
        """Something was heard of the jobs."""
        self._look_at = max(self._look_at, now + SILENCE_S)
        self._told = False

    def look(self, now: float) -> None:
        """Ask, if it is time to, and say what is new."""
        if now < self._look_at:
            return
        self._look_at = now + AGAIN_S
        names = self._members()
        if names is None or bool(names) != self._told:
            return  # not known, or nothing new
        self._told = not names
        text = f"a worker has joined the group {self._group}"
        if self._told:
            text = f"no worker is in the group {self._group}: the jobs wait until one starts"
        note_console().print(text, markup=False, style="yellow" if self._told else "dim")

    def _ask(self) -> tuple[str, ...] | None:
        if self._admin is None:
            self._admin = AdminClient(self._connection.config() | {"error_cb": lambda _error: None})
        return member_names(self._admin, self._group, ANSWER_S)
