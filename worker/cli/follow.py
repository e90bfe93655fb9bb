"""Follow jobs on the result topics until each has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from worker.cli.absence import Absence
from worker.cli.output import note_console
from worker.cli.progress import JobView
from worker.cli.results import ENDED, Final
from worker.client.connection import Connection
from worker.client.reader import Reader
from worker.errors import UndecodableError
from worker.events.headers import job_status
from worker.events.types import Event, GenerationCompleted, GenerationFailed, GenerationStatus

POLL_S = 0.1


def result_reader(connection: Connection) -> Reader:
    """Return a reader of the completed, failed and status topics, positioned at their current end."""
    topics = connection.topics
    reader = Reader(connection, (topics.completed, topics.failed, topics.status), follows=True)
    reader.from_end()
    return reader


def follow(
    connection: Connection,
    reader: Reader,
    jobs: Iterable[str],
    view: JobView,
    on_end: Callable[[Final], None],
    timeout_s: float | None,
) -> set[str]:
    """Show the progress of the jobs until each has ended; return those that had not ended at the timeout."""
    waiting = set(jobs)
    absence = Absence(connection, time.monotonic())
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while waiting and (deadline is None or time.monotonic() < deadline):
        record = reader.poll(POLL_S)
        absence.look(time.monotonic())
        if record is None or record.key is None or record.key.decode("utf-8", "replace") not in waiting:
            continue
        absence.heard(time.monotonic())
        try:
            event = connection.decode(record)
        except UndecodableError as error:
            note_console().print(f"{record.topic} {record.partition}/{record.offset}: {error}", markup=False)
            continue
        if isinstance(event, GenerationCompleted | GenerationFailed):
            waiting.discard(event.job_id)
            view.finish(event.job_id, job_status(event).value)
            on_end(event)
        else:
            show(view, event)
    return waiting


def show(view: JobView, event: Event) -> None:
    """Show a status event of a job that has not ended; the end is taken from the completed and failed topics."""
    if isinstance(event, GenerationStatus) and event.status not in ENDED:
        view.update(event.job_id, event.status.value, event.step, event.num_inference_steps)
