"""Choose dead letters, make the records that are sent in their place, and send them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from worker.cli.dead_letters.correct import Correction, corrected
from worker.cli.dead_letters.describe import place_text
from worker.cli.dead_letters.letters import original, read_content, resubmitted
from worker.cli.dead_letters.send import BATCH, OvertakenError, Resubmission, Resubmitter
from worker.cli.output import print_json
from worker.cli.requests import request_topic, utc_now
from worker.client.connection import SOURCE, Connection
from worker.client.errors import CommandError
from worker.events.dead_letters import RESUBMITTED_FROM, DeadLetter
from worker.events.headers import passed_through, request_headers
from worker.events.types import GenerationRequest, Priority

_LANES = ("urgent", "high", "normal")


@dataclass(slots=True)
class Resubmit:
    """One run of `dead-letters resubmit`.

    Args:
        lane: of all that is sent; None: each goes where it came from.
        dry_run: say what would be sent, and send nothing.
    """

    connection: Connection
    correction: Correction
    lane: str | None = None
    dry_run: bool = False
    as_json: bool = False
    _sent: dict[str, str] = field(default_factory=dict)
    _bad: bool = False

    def run(self, chosen: Iterable[DeadLetter]) -> int:
        """Send the letters again that were not yet; return the exit code. Raises CommandError."""
        if self.dry_run:
            self._sent = resubmitted(self.connection)
            for one in self._prepared(chosen):
                self._say(one, "would be sent")
            return int(self._bad)
        with Resubmitter(self.connection) as resubmitter:
            # Only now: nobody else's transaction is open any more.
            self._sent = resubmitted(self.connection)
            batch: list[Resubmission] = []
            for one in self._prepared(chosen):
                batch.append(one)
                if len(batch) == BATCH:
                    self._send(resubmitter, batch)
                    batch = []
            self._send(resubmitter, batch)
        return int(self._bad)

    def _prepared(self, chosen: Iterable[DeadLetter]) -> Iterator[Resubmission]:
        for letter in chosen:
            where = self._sent.get(letter.identity)
            if where is not None:
                print(f"{place_text(letter)}: was sent again before, to {where}", file=sys.stderr)
                continue
            try:
                one = self._resubmission(letter)
            except (ValueError, TypeError, OverflowError, CommandError) as error:
                self._bad = True
                print(f"{place_text(letter)}: {error}", file=sys.stderr)
                continue
            self._sent[letter.identity] = one.topic
            yield one

    def _send(self, resubmitter: Resubmitter, batch: list[Resubmission]) -> None:
        if not batch:
            return
        try:
            resubmitter.send(batch)
        except OvertakenError:
            raise
        except CommandError as error:
            if len(batch) == 1:
                self._bad = True
                print(f"{place_text(batch[0].letter)}: {error}", file=sys.stderr)
                return
            # What one record is refused for is not the others' trouble.
            for one in batch:
                self._send(resubmitter, [one])
            return
        for one in batch:
            self._say(one, "sent")

    def _say(self, one: Resubmission, what: str) -> None:
        if self.as_json:
            told: dict[str, Any] = {"place": place_text(one.letter), "topic": one.topic}
            print_json(told | {"key": (one.key or b"").decode("utf-8", "replace"), "status": what.replace(" ", "_")})
        else:
            key = (one.key or b"").decode("utf-8", "backslashreplace")
            print(f"{place_text(one.letter)} {what} to {one.topic}, key {key}", flush=True)

    def _resubmission(self, letter: DeadLetter) -> Resubmission:
        """Raises ValueError, CommandError: it cannot be sent; the message says what would help."""
        content = original(self.connection, letter)
        reading = read_content(self.connection, letter, content)
        source = f"{self.connection.topics.dead_letter} {place_text(letter)}".encode()
        if self.correction.changes_anything:
            request = corrected(letter, reading, self.correction, now=utc_now())
            topic = self._topic(letter, request)
            value, framing = self.connection.codec.encode(request, topic=topic)
            passed = passed_through(content.headers)
            headers = request_headers(request, source=SOURCE, now=utc_now(), passed=passed)
            key: bytes | None = request.job_id.encode()
            return Resubmission(
                letter=letter,
                topic=topic,
                key=key,
                value=value,
                headers=(*headers, *framing, (RESUBMITTED_FROM, source)),
            )
        if not isinstance(reading.event, GenerationRequest):
            reason = reading.error or f"it is a {reading.schema}"
            raise ValueError(f"it would come back: {reason}. Correct it with --set, --unset or --edited")
        return Resubmission(
            letter=letter,
            topic=self._topic(letter, reading.event),
            key=content.key,
            value=content.value,
            headers=(*content.headers, (RESUBMITTED_FROM, source)),
        )

    def _topic(self, letter: DeadLetter, request: GenerationRequest) -> str:
        topics = self.connection.topics
        if self.lane is not None:
            return dict(zip(_LANES, topics.requests, strict=True))[self.lane]
        if letter.topic in topics.requests:
            return str(letter.topic)
        if request.priority is Priority.UNKNOWN:
            raise ValueError("its topic is not known: choose a --lane")
        return request_topic(topics, request)
