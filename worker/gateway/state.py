"""Whether the gateway knows enough to answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from worker.gateway.refusals import try_later


class Reading(Protocol):
    """How far the topics were read; `TopicReader` is one."""

    @property
    def trouble(self) -> str | None: ...
    @property
    def loaded(self) -> bool: ...
    @property
    def alive(self) -> bool: ...


@dataclass(slots=True)
class State:
    """What the probes and the paths ask."""

    reading: Reading
    stopping: bool = False

    def not_ready(self) -> list[str]:
        """Why requests should go elsewhere, as sentences; empty while they should not."""
        trouble = self.reading.trouble if self.reading.alive else "reading the topics has ended; the log tells why"
        reasons = [] if trouble is None else [trouble]
        return [*reasons, "the gateway is stopping"] if self.stopping else reasons

    def require_loaded(self) -> None:
        """Raises Refusal: 503, nothing is known of any job yet."""
        if not self.reading.loaded:
            raise try_later(self.reading.trouble or "the status topic has not been read to its end yet", 2)
