"""Send requests and optionally follow them until they end."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from confluent_kafka import Message
from rich.text import Text

from worker.cli.follow import follow, result_reader
from worker.cli.output import json_line, note_console, print_line, result_line
from worker.cli.progress import JobView, job_view
from worker.cli.requests import request_from_line, request_topic, utc_now
from worker.cli.results import Final, one_line, status_object
from worker.client.connection import Connection, Sender
from worker.client.errors import CommandError
from worker.client.reader import Reader
from worker.errors import StoreUnavailable
from worker.events.headers import Input, job_status
from worker.events.types import GenerationCompleted, GenerationRequest

if TYPE_CHECKING:
    from worker.cli.pictures import Saver

# No record may be so large.
MAX_LINE_BYTES = 16 * 1024 * 1024

Numbered = tuple[int, GenerationRequest | ValueError]


def numbered_requests(source: BinaryIO) -> Iterator[Numbered]:
    """Yield each line's number (from 1) and its request, or the error if it is invalid; blank lines are skipped."""
    for number, line in numbered_lines(source):
        if isinstance(line, ValueError):
            yield number, line
        elif line.strip():
            try:
                yield number, request_from_line(line, now=utc_now())
            except ValueError as error:
                yield number, error


def numbered_lines(source: BinaryIO, limit: int = MAX_LINE_BYTES) -> Iterator[tuple[int, str | ValueError]]:
    """Yield each line's number (from 1) and its text, or the error if it has none; the other lines are still read."""
    number = 0
    while line := source.readline(limit):
        number += 1
        if len(line) == limit and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = source.readline(limit)
            yield number, ValueError(f"longer than {limit} bytes")
            continue
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield number, ValueError(f"not UTF-8 (byte {error.start})")


class Submission:
    """Sends requests, remembers whether any was invalid and, with `wait`, follows the jobs to their end.

    Args:
        saver: saves the pictures of completed jobs.
    """

    def __init__(self, connection: Connection, *, wait: bool, as_json: bool, saver: Saver | None = None) -> None:
        self._saver = saver
        self._connection = connection
        self._wait = wait
        self._as_json = as_json
        self._bad = False
        self._jobs: dict[str, str] = {}
        self._stack = ExitStack()
        self._sender: Sender
        self._reader: Reader | None = None
        self._view: JobView | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self._wait:
                # The reader is positioned before anything is sent; otherwise a quick result could be missed.
                self._reader = stack.enter_context(result_reader(self._connection))
                self._view = stack.enter_context(job_view(note_console(), keep_finished=False))
            self._sender = Sender(self._connection, self._acknowledged)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def send(self, request: GenerationRequest) -> None:
        """Queue one request.

        Raises:
            ValueError: the request does not fit its schema, or is larger than a record may be.
        """
        self._sender.send(request_topic(self._connection.topics, request), request)
        self._jobs[request.job_id] = f"{request.priority.value} {request.job_id}"

    def send_all(self, requests: Iterable[Numbered]) -> None:
        """Queue requests as they are read; an invalid line is reported and the others are still sent."""
        for number, request in requests:
            try:
                if isinstance(request, ValueError):
                    raise request
                self.send(request)
            except ValueError as error:
                self._bad = True
                print(f"line {number}: {error}", file=sys.stderr, flush=True)

    def finish(self, timeout_s: float | None) -> int:
        """Wait for the acknowledgements and, with `wait`, until the jobs have ended; return the exit code."""
        self._sender.flush()
        left: set[str] = set()
        if self._reader is not None and self._view is not None:
            left = follow(self._connection, self._reader, self._jobs, self._view, self._ended, timeout_s)
        for job_id in sorted(left):
            print(f"{job_id} had not ended after {timeout_s:g} s", file=sys.stderr)
        return int(self._bad or bool(left))

    def _acknowledged(self, event: Input, message: Message) -> None:
        if self._as_json:
            place = {"topic": message.topic(), "partition": message.partition(), "offset": message.offset()}
            self._print(json_line({"job_id": event.job_id, "status": "queued"} | place))
        elif not self._wait:
            self._print(Text(event.job_id))
        if self._view is not None:
            self._view.add(event.job_id, self._jobs.get(event.job_id, event.job_id))

    def _ended(self, event: Final) -> None:
        self._bad = self._bad or not isinstance(event, GenerationCompleted)
        if self._as_json:
            self._print(json_line(status_object(event) | self._save(event)))
        else:
            self._print(result_line(job_status(event).value, event.job_id, one_line(event)))
            for path in self._save(event).values():
                self._print(Text(path))

    def _save(self, event: Final) -> dict[str, str]:
        """Save a completed job's files; where they are. What goes wrong with one picture is told, and others go on."""
        if self._saver is None or not isinstance(event, GenerationCompleted):
            return {}
        try:
            saved = self._saver.save(event)
        except (CommandError, StoreUnavailable, OSError) as error:
            self._bad = True
            print(f"{event.job_id} was not saved: {error}", file=sys.stderr)
            return {}
        return {"image": str(saved.image), "thumbnail": str(saved.thumbnail)}

    def _print(self, line: Text) -> None:
        (print_line if self._view is None else self._view.print_line)(line)
