"""Writers' schemas by id, fetched on a thread of its own: whoever asks waits no longer than it wants to."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from worker.errors import RegistryUnavailable, UndecodableError
from worker.events.registry import SchemaKey, SchemaNotFound
from worker.events.writers import Writer

MAX_SCHEMAS = 1_000
# After this a schema that was unknown or unusable is asked for again.
REFUSED_S = 60.0
# Whoever holds a record asks again about once a second; a partition that was revoked took its records along.
UNWANTED_S = 60.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what.

    Args:
        wait_s: for a look-up that is under way, before RegistryUnavailable.
        grace_s: for an id that the registry does not know, since one may be unknown for a moment after it was
            registered; then its records are undecodable.
        pause_s: between look-ups of one id; doubles up to `max_pause_s`.
    """

    wait_s: float
    grace_s: float
    pause_s: float
    max_pause_s: float = 8.0


# A command has nothing else to do; whoever typed it may type it again.
COMMAND = Patience(wait_s=10.0, grace_s=0.0, pause_s=0.0)
# The poll thread never waits: it holds the record, reads on, and asks again.
POLL_THREAD = Patience(wait_s=0.0, grace_s=10.0, pause_s=0.5)


@dataclass(slots=True)
class _Entry:
    """What is known of one schema; `trouble` is why it is not there, `refused` why it never will be."""

    writer: Writer | None = None
    trouble: str = "the writer's schema is being fetched from the schema registry"
    refused: str | None = None
    unknown_since: float | None = None
    due: float = 0.0
    pause_s: float = 0.0
    is_asked: bool = False
    wanted_at: float = 0.0

    def is_spare(self, now: float) -> bool:
        """Whether it may be forgotten: it is settled, or whoever wanted it asks no more."""
        is_settled = self.writer is not None or self.refused is not None
        return not self.is_asked and (is_settled or now - self.wanted_at > UNWANTED_S)


class SchemaLookup:
    """Any thread may ask. At most one request is under way, and at most `MAX_SCHEMAS` ids are known.

    Args:
        fetch: blocks; raises SchemaNotFound, RegistryUnavailable or UndecodableError.
    """

    def __init__(
        self,
        fetch: Callable[[SchemaKey], Writer],
        patience: Patience = COMMAND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._patience = patience
        self._clock = clock
        self._changed = threading.Condition()
        self._entries: OrderedDict[SchemaKey, _Entry] = OrderedDict()
        self._asked: SimpleQueue[SchemaKey | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def get(self, key: SchemaKey) -> Writer:
        """The writer's schema.

        Raises:
            RegistryUnavailable: it is not there yet; ask again later.
            UndecodableError: there is none, or none that can be read with.
        """
        with self._changed:
            entry = self._entry(key)
            if entry.writer is None and self._clock() >= entry.due and not entry.is_asked:
                queue = self._start()
                entry.is_asked = True
                queue.put(key)
            if entry.is_asked:
                self._changed.wait_for(lambda: not entry.is_asked, self._patience.wait_s)
            if entry.writer is not None:
                return entry.writer
            # While it is asked for once more, what was said last is not certain any longer.
            if entry.refused is not None and not entry.is_asked:
                raise UndecodableError(entry.refused)
            raise RegistryUnavailable(entry.trouble)

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is under way; whether it came to that."""
        with self._changed:
            return self._changed.wait_for(lambda: not any(e.is_asked for e in self._entries.values()), timeout_s)

    def close(self) -> None:
        """End the thread as soon as its request ends; nothing waits for that."""
        self._asked.put(None)

    def _entry(self, key: SchemaKey) -> _Entry:
        found = self._entries.get(key)
        if found is None:
            if len(self._entries) >= MAX_SCHEMAS:
                self._make_room()
            found = self._entries[key] = _Entry(pause_s=self._patience.pause_s)
        self._entries.move_to_end(key)
        found.wanted_at = self._clock()
        return found

    def _make_room(self) -> None:
        """Forget the spare entry that was wanted longest ago; those under way keep their place."""
        now = self._clock()
        oldest = next((key for key, entry in self._entries.items() if entry.is_spare(now)), None)
        if oldest is None:
            raise RegistryUnavailable(f"{MAX_SCHEMAS} schema ids are being looked up already")
        del self._entries[oldest]

    def _start(self) -> SimpleQueue[SchemaKey | None]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="schema-lookup", daemon=True)
            self._thread.start()
        return self._asked

    def _run(self) -> None:
        while (key := self._asked.get()) is not None:
            try:
                found: Writer | Exception = self._fetch(key)
            except Exception as error:
                # Were this thread to end, every record of an unknown schema would wait for ever.
                found = error
            with self._changed:
                self._note(key, self._entries[key], found)
                self._changed.notify_all()

    def _note(self, key: SchemaKey, entry: _Entry, found: Writer | Exception) -> None:
        now, patience = self._clock(), self._patience
        entry.is_asked, entry.refused = False, None
        match found:
            case Writer():
                entry.writer = found
            case RegistryUnavailable():
                entry.trouble = str(found)
                self._pause(entry, now)
            case SchemaNotFound():
                entry.trouble = f"the schema registry does not know the schema id {key}"
                entry.unknown_since = now if entry.unknown_since is None else entry.unknown_since
                verdict_at = entry.unknown_since + patience.grace_s
                if now >= verdict_at:
                    entry.refused, entry.due = entry.trouble, now + REFUSED_S
                else:
                    self._pause(entry, now)
                    entry.due = min(entry.due, verdict_at)
            case UndecodableError():
                entry.refused, entry.due = str(found), now + REFUSED_S
            case _:
                reason = f"the writer's schema {key} is unusable: {type(found).__name__}: {found}"
                entry.refused, entry.due = reason, now + REFUSED_S

    def _pause(self, entry: _Entry, now: float) -> None:
        entry.due = now + entry.pause_s
        entry.pause_s = min(2 * entry.pause_s, self._patience.max_pause_s)
