"""Which webhook is sent next: in order per job, a few at once, and with pauses while the receiver fails.

Pure: the time is an argument, in seconds of any clock that runs steadily.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from worker.events.headers import Place
from worker.events.single_object import Headers

FIRST_PAUSE_S = 1.0
# An attempt that failed while the receiver took others is the delivery's own failure; in an outage there are none. With
# these pauses, a delivery is given up after about 13 hours of them.
MAX_OWN_FAILURES = 24
MAX_OWN_PAUSE_S = 3_600.0


@dataclass(slots=True, eq=False)
class Delivery:
    """A result on its way to the receiver.

    Args:
        job: webhooks of one job are sent one after the other.
        place: topic, partition and offset of its record.
        value, headers: of its record.
        due_at: not to be tried before.
        began_at: when its last attempt began.
        attempts: requests that were made for it.
        own_failures: those of them that failed while others succeeded.
    """

    job: bytes
    place: Place
    value: bytes | None = None
    headers: Headers = None
    due_at: float = 0.0
    began_at: float = 0.0
    attempts: int = 0
    own_failures: int = 0
    _successes_seen: int | None = field(default=None, repr=False)


class DeliveryQueue:
    """Deliveries that wait or are under way.

    While the receiver fails, one at a time is tried, after pauses that double; a success opens it again.

    Args:
        concurrency: the largest number that are under way at once.
        max_pause_s: the longest pause between two attempts while the receiver fails.
        jitter: a random number from 0 to 1 at each call.
    """

    def __init__(self, concurrency: int, max_pause_s: float, jitter: Callable[[], float]) -> None:
        self._concurrency = concurrency
        self._max_pause_s = max_pause_s
        self._jitter = jitter
        # The first of each job is the one whose turn it is.
        self._jobs: dict[bytes, deque[Delivery]] = {}
        self._under_way: set[Delivery] = set()
        self._failures = 0
        self._successes = 0
        self._failed_at = -math.inf
        self._closed_until = 0.0

    def __len__(self) -> int:
        return sum(len(of_job) for of_job in self._jobs.values())

    @property
    def under_way(self) -> int:
        """The number of requests that are being made."""
        return len(self._under_way)

    @property
    def is_failing(self) -> bool:
        """The last answers of the receiver were failures."""
        return self._failures > 0

    def add(self, delivery: Delivery) -> None:
        """Take a delivery in; those of one job must come in their order."""
        self._jobs.setdefault(delivery.job, deque()).append(delivery)

    def take(self, now: float) -> Delivery | None:
        """The next delivery to try, which is then under way; None where none may be tried now."""
        if len(self._under_way) >= (1 if self.is_failing else self._concurrency) or now < self._closed_until:
            return None
        turns = (of_job[0] for of_job in self._jobs.values())
        waiting = [delivery for delivery in turns if delivery.due_at <= now and delivery not in self._under_way]
        if not waiting:
            return None
        chosen = min(waiting, key=lambda delivery: delivery.due_at)
        chosen.attempts += 1
        chosen.began_at = now
        self._under_way.add(chosen)
        return chosen

    def delivered(self, delivery: Delivery) -> None:
        """The receiver took it."""
        self._receiver_answered()
        self._successes += 1
        self._remove(delivery)

    def refused(self, delivery: Delivery) -> None:
        """The receiver does not want this one, which is an answer too."""
        self._receiver_answered()
        self._remove(delivery)

    def failed(self, delivery: Delivery, now: float, retry_after_s: float = 0.0) -> bool:
        """The attempt failed; False where it was the delivery's last, since the receiver takes others and not this one.

        Args:
            retry_after_s: how long the receiver asks to be left alone.
        """
        self._under_way.discard(delivery)
        if delivery._successes_seen is not None and self._successes > delivery._successes_seen:
            delivery.own_failures += 1
        delivery._successes_seen = self._successes
        if delivery.own_failures >= MAX_OWN_FAILURES:
            self._remove(delivery)
            return False
        if delivery.began_at > self._failed_at:
            # Those that were under way together fail together, and count once.
            self._failures += 1
            self._failed_at = now
            self._closed_until = now + max(self._pause_s(self._failures, self._max_pause_s), retry_after_s)
        delivery.due_at = now + max(self._pause_s(delivery.own_failures + 1, MAX_OWN_PAUSE_S), retry_after_s)
        return True

    def postpone(self, delivery: Delivery, until: float) -> None:
        """It could not be tried, through no fault of the receiver."""
        self._under_way.discard(delivery)
        delivery.attempts -= 1
        delivery.due_at = until

    def remove(self, places: Iterable[tuple[str, int]]) -> list[Delivery]:
        """Take out all deliveries of some partitions, those that are under way too, and return them."""
        gone = set(places)
        found = [d for of_job in self._jobs.values() for d in of_job if d.place[:2] in gone]
        for delivery in found:
            self._remove(delivery)
        return found

    def _receiver_answered(self) -> None:
        self._failures, self._closed_until = 0, 0.0

    def _remove(self, delivery: Delivery) -> None:
        self._under_way.discard(delivery)
        of_job = self._jobs[delivery.job]
        of_job.remove(delivery)
        if not of_job:
            del self._jobs[delivery.job]

    def _pause_s(self, failures: int, longest_s: float) -> float:
        """Doubling pauses, of which the later half is random, so that several senders do not come all at once."""
        whole = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 30), longest_s)
        return whole * (0.5 + 0.5 * self._jitter())
