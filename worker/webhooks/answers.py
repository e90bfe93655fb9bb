"""What follows from a receiver's answer. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

# What says something about the receiver as it is now and nothing about this webhook: it is not deployed, does not know
# our credentials, is busy. Redirects are among them: they are not followed.
_NOT_THE_WEBHOOKS_FAULT = frozenset({401, 403, 404, 405, 407, 408, 421, 423, 425, 426, 429, 451})
MAX_RETRY_AFTER_S = 3_600.0


class Verdict(Enum):
    """What becomes of a webhook after an attempt."""

    DELIVERED = "delivered"
    TRY_AGAIN = "retried"
    GIVE_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Answer:
    """How an attempt went.

    Args:
        status: the HTTP status; None where there was no answer.
        reason: for the log.
        retry_after_s: the time in seconds for which the receiver wants to be left alone.
    """

    status: int | None
    reason: str
    retry_after_s: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """Only an answer that says no to this very webhook gives it up; everything else may pass."""
        if self.status is None:
            return Verdict.TRY_AGAIN
        if 200 <= self.status < 300:
            return Verdict.DELIVERED
        if 400 <= self.status < 500 and self.status not in _NOT_THE_WEBHOOKS_FAULT:
            return Verdict.GIVE_UP
        return Verdict.TRY_AGAIN


def retry_after_s(text: str | None) -> float:
    """The seconds that a `Retry-After` header asks for; 0 where it asks for none, or names a date."""
    try:
        seconds = float(text or 0)
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if math.isfinite(seconds) else 0.0
