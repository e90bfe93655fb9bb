"""The `demo` verb: make twelve pictures on this machine, with local servers and the demo model."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from devtools.demo import files, gallery
from devtools.demo.judge import Ends, Shortfall, exit_code, shortfalls
from devtools.demo.requests import UNDECODABLE, UNDECODABLE_ID, good_requests, invalid_request
from devtools.demo.stage import Stage, end_worker, forget_real_services, stage
from worker.cli.flags import YEAR_S, between
from worker.cli.follow import POLL_S, show
from worker.cli.output import note_console, result_console
from worker.cli.progress import JobView, job_view
from worker.cli.requests import request_topic
from worker.client.connection import Connection, Record, Sender
from worker.client.reader import Reader
from worker.errors import UndecodableError
from worker.events.codec import make_codec
from worker.events.types import Event, GenerationCompleted, GenerationFailed, GenerationRequest
from worker.settings import load_settings
from worker.topics import Topics

LOG_LINES = 30


@dataclass(slots=True)
class Run:
    """The requests that were sent, and the records that came back."""

    requests: tuple[GenerationRequest, ...]
    expected: dict[str, str]
    ends: Ends = field(default_factory=Ends)
    records: list[tuple[Record, Event | None]] = field(default_factory=list)

    @property
    def completed(self) -> list[GenerationCompleted]:
        return [event for _, event in self.records if isinstance(event, GenerationCompleted)]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the page, the events and the pictures.")] = Path("out/demo"),
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", callback=between(0.0, YEAR_S), help="Time limit for all the pictures."),
    ] = 120.0,
) -> None:
    """Start Kafka, S3 and a worker with the demo SDXL locally, send fourteen requests, and show the results.

    Exit code 0 only if twelve jobs completed, one failed and one went to the dead-letter topic.
    """
    started = time.monotonic()
    # SIGTERM unwinds the stack like Ctrl-C, so that the demo stops what it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    forget_real_services()
    prefix = load_settings().kafka_topic_prefix
    console = note_console()
    files.clear(out)
    with ExitStack() as stack:
        status = stack.enter_context(console.status("")) if console.is_terminal else None

        def say(text: str) -> None:
            if status is None:
                console.print(f"{time.monotonic() - started:5.1f} s  {text}")
            else:
                status.update(text)

        scene = stack.enter_context(stage(out, Topics(prefix), say))
        if status is not None:
            status.stop()
        sent = time.monotonic()
        run = _play(scene, Topics(prefix), console, timeout)
        took = time.monotonic() - sent
        missing = files.fetch_pictures(scene.store.client(), scene.store.bucket, run.completed, out / files.PICTURES)
        code = end_worker(scene.worker)
        found = shortfalls(run.expected, run.ends, missing_files=missing, worker_exit_code=code)
        tail = scene.worker.log_tail(LOG_LINES) if found else ""
    files.write_events(out / files.EVENTS, run.records)
    page = gallery.render(run.requests, run.records, generation_s=took)
    (out / files.PAGE).write_text(page, encoding="utf-8")
    _report(run, found, tail, out, time.monotonic() - started)
    raise typer.Exit(exit_code(found))


def _play(scene: Stage, topics: Topics, console: Console, timeout_s: float) -> Run:
    """Send all the requests, and read results until each job has ended or the time is up."""
    settings = load_settings(
        kafka_bootstrap_servers=scene.broker.bootstrap_servers,
        kafka_topic_prefix=topics.prefix,
        schema_registry_url=None,
    )
    with closing(make_codec(settings)) as codec:
        connection = Connection(settings, topics, codec)
        results = (topics.completed, topics.failed, topics.status, topics.dead_letter)
        with Reader(connection, results) as reader, job_view(console, keep_finished=True) as view:
            reader.from_beginning()
            run = _send(connection, view)
            deadline = time.monotonic() + timeout_s
            while not run.ends.complete(run.expected) and time.monotonic() < deadline:
                record = reader.poll(POLL_S)
                if record is not None:
                    _take(connection, record, run, view)
                elif not scene.worker.running:
                    break
    return run


def _send(connection: Connection, view: JobView) -> Run:
    now = datetime.now(UTC)
    good, bad = good_requests(now), invalid_request(now)
    expected = {request.job_id: "completed" for request in good}
    sender = Sender(connection)
    for request in (*good, bad):
        view.add(request.job_id, f"{request.priority.value:<6} {request.job_id}")
        sender.send(request_topic(connection.topics, request), request)
    view.add(UNDECODABLE_ID, f"normal {UNDECODABLE_ID}")
    sender.produce(connection.topics.normal, UNDECODABLE_ID.encode(), UNDECODABLE, ())
    sender.flush()
    return Run((*good, bad), expected | {bad.job_id: "failed", UNDECODABLE_ID: "dead-letter"})


def _take(connection: Connection, record: Record, run: Run, view: JobView) -> None:
    """Record one result and show it."""
    key = (record.key or b"").decode("utf-8", "replace")
    if record.topic == connection.topics.dead_letter:
        run.records.append((record, None))
        run.ends.add(key, "dead-letter")
        view.finish(key, "dead-letter")
        return
    try:
        event = connection.decode(record)
    except UndecodableError:
        run.records.append((record, None))
        return
    run.records.append((record, event))
    match event:
        case GenerationCompleted():
            run.ends.add(event.job_id, "completed")
            view.finish(event.job_id, "completed", f"waited {event.queue_time:.1f} s")
        case GenerationFailed():
            run.ends.add(event.job_id, "failed")
            view.finish(event.job_id, "failed", event.error_code.value)
        case _:
            show(view, event)


def _report(run: Run, found: list[Shortfall], tail: str, out: Path, seconds: float) -> None:
    console = result_console()
    counts = run.ends.counts
    summary = ", ".join(f"{counts[end]} {word}" for end, word in _WORDS.items())
    console.print(f"{summary}, in {seconds:.1f} s in total; see {out / files.PAGE}", soft_wrap=True)
    if not found:
        return
    table = Table("what", "expected", "found", title="What is missing", title_style="bold red")
    for shortfall in found:
        table.add_row(shortfall.what, shortfall.expected, shortfall.found)
    note_console().print(table)
    note_console().print(f"the end of {out / files.LOG}:\n{tail}", markup=False, soft_wrap=True)


_WORDS = {"completed": "completed", "failed": "failed", "dead-letter": "dead-lettered"}
