"""Asking Kafka for something, with an answer in time when it is not there and with an ear for Ctrl-C.

librdkafka's calls wait in C, where Python hears no signal: a wrong address was 15 to 30 s of silence, and Ctrl-C came
to nothing. So a long wait is made of short ones; the client keeps its connections in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from confluent_kafka import KafkaError, KafkaException

from worker.client.errors import CommandError

T = TypeVar("T")

# For a broker that says nothing at all, and for one whose address refuses us or has no meaning.
ANSWER_S = 10.0
REFUSED_S = 2.5
# The first wait, and the longest. The answer to a call that timed out is lost, and a large cluster's takes a while.
SLICE_S = 0.5
MAX_SLICE_S = 2.0

_PASSING = frozenset({KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN})
# What a broker answers at once while the client knows an older leader of a partition, or none yet.
_LEADER_MOVES = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
    }
)
_LEADER_PAUSE_S = 0.1
# For clients that ask for offsets: librdkafka does not learn by itself that a leader has moved (tried, 2.16).
KNOWS_LEADERS = {"metadata.max.age.ms": 2_000}
_DOWN = frozenset({KafkaError._ALL_BROKERS_DOWN})
_REFUSED = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL})


class Client(Protocol):
    """What librdkafka's consumers, producers and admin clients have in common."""

    def poll(self, timeout: float) -> Any: ...
    def list_topics(self, topic: str | None = None, timeout: float = -1) -> Any: ...


class Trouble:
    """A client's `error_cb`: it keeps the last reason, and which of the servers have failed."""

    def __init__(self, servers: str) -> None:
        self.servers = servers
        self.reason: str | None = None
        self._failed: set[str] = set()
        self._rejected = False

    def __call__(self, error: KafkaError) -> None:
        self._rejected = self._rejected or error.code() in _REFUSED
        if error.code() in _DOWN:
            return
        # A consumer never counts all its brokers as down, since it also counts the group's coordinator.
        self.reason = error.str()
        self._failed.add(self.reason.partition("/")[0])

    @property
    def hopeless(self) -> bool:
        """Every server has failed once, or one does not want us."""
        return self._rejected or len(self._failed) >= len(self.servers.split(","))


def reach(client: Client, trouble: Trouble, patience_s: float | None = None) -> Any:
    """The cluster's metadata.

    Raises:
        CommandError: nobody answered within `patience_s`, or within less where every address refused.
    """
    patience_s = ANSWER_S if patience_s is None else patience_s

    def give_up(waited_s: float) -> bool:
        client.poll(0)
        return waited_s > patience_s or (trouble.hopeless and waited_s > REFUSED_S)

    try:
        return in_slices(lambda slice_s: client.list_topics(timeout=slice_s), give_up)
    except KafkaException as error:
        reason = trouble.reason or error.args[0].str()
        raise CommandError(f"Kafka at {trouble.servers} does not answer: {reason}") from error


def in_slices(call: Callable[[float], T], give_up: Callable[[float], bool]) -> T:
    """Repeat a call that may be repeated, which gets a short timeout in seconds, until it succeeds.

    Args:
        give_up: called with the seconds since the beginning after each failure.

    Raises:
        KafkaException: the last one, when `give_up` says so; at once, where trying again cannot help.
    """
    began, slice_s = time.monotonic(), SLICE_S
    while True:
        try:
            return call(slice_s)
        except KafkaException as error:
            code = error.args[0].code()
            if code not in _PASSING | _LEADER_MOVES or give_up(time.monotonic() - began):
                raise
            if code in _LEADER_MOVES:
                time.sleep(_LEADER_PAUSE_S)
        slice_s = min(2 * slice_s, MAX_SLICE_S)
