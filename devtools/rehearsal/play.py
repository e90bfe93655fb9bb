"""Draw the rehearsal's pictures one after the other with a real worker, and measure each."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from devtools.demo.files import object_key
from devtools.demo.stage import Stage, end_worker, stage
from worker.cli.requests import request_topic
from worker.client.connection import Connection, Sender
from worker.client.errors import CommandError
from worker.client.reader import Reader
from worker.events.codec import make_codec
from worker.events.types import GenerationCompleted, GenerationFailed, GenerationRequest
from worker.settings import load_settings
from worker.topics import Topics

READY_TIMEOUT_S = 1800.0
_POLL_S = 0.2

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One picture: the seconds from the job's start to its pixels, and the worker's largest memory until then.

    `cpu_seconds` is the worker's processor time from the last picture's end to this one's; other programs on the
    machine change it less than `seconds`. What is read from /proc is None where that is not there.
    """

    job_id: str
    seconds: float
    cpu_seconds: float | None
    steps: int
    peak_gb: float | None
    pixel_sha256: str


def play(
    requests: Sequence[GenerationRequest], settings: Mapping[str, str], out: Path, say: Say, *, timeout_s: float
) -> Iterator[Drawn]:
    """Start broker, store and a worker with `settings`, and yield each picture as it is drawn.

    Raises:
        CommandError: a server did not start, a job failed or took longer than `timeout_s`, or the worker ended badly.
    """
    topics = Topics(load_settings().kafka_topic_prefix)
    with stage(out, topics, say, settings, READY_TIMEOUT_S) as scene:
        own = load_settings(
            kafka_bootstrap_servers=scene.broker.bootstrap_servers,
            kafka_topic_prefix=topics.prefix,
            schema_registry_url=None,
        )
        with closing(make_codec(own)) as codec:
            connection = Connection(own, topics, codec)
            with Reader(connection, (topics.completed, topics.failed)) as reader:
                reader.from_beginning()
                sender = Sender(connection)
                for request in requests:
                    say(f"drawing {request.job_id}")
                    before = cpu_seconds(scene.worker.pid)
                    sender.send(request_topic(topics, request), request)
                    sender.flush()
                    yield _drawn(scene, _completed(connection, reader, scene, request.job_id, timeout_s), before)
        code = end_worker(scene.worker)
        if code != 0:
            raise CommandError(f"the worker ended with exit code {code}; see {scene.worker.log_path}")


def _completed(
    connection: Connection, reader: Reader, scene: Stage, job_id: str, timeout_s: float
) -> GenerationCompleted:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and scene.worker.running:
        record = reader.poll(_POLL_S)
        if record is None:
            continue
        match connection.decode(record):
            case GenerationCompleted() as event if event.job_id == job_id:
                return event
            case GenerationFailed() as event:
                raise CommandError(f"{event.job_id} failed: {event.error_message}")
    raise CommandError(f"{job_id} was not drawn; the end of the worker's log:\n{scene.worker.log_tail()}")


def _drawn(scene: Stage, event: GenerationCompleted, cpu_before: float | None) -> Drawn:
    stored = scene.store.client().get_object(Bucket=scene.store.bucket, Key=object_key(event.manifest_url))
    manifest = json.loads(stored["Body"].read())
    cpu = cpu_seconds(scene.worker.pid)
    return Drawn(
        event.job_id,
        event.generation_time,
        None if cpu is None or cpu_before is None else cpu - cpu_before,
        event.num_inference_steps,
        peak_gb(scene.worker.pid),
        manifest["picture"]["pixel_sha256"],
    )


def cpu_seconds(pid: int) -> float | None:
    """Return the processor time that a process has had so far; None where /proc is not there (proc(5), `stat`)."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.is_file():
        return None
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_gb(pid: int) -> float | None:
    """Return the largest resident memory that a process has had, in GB (1e9 bytes); None where /proc is not there.

    Files that were mapped into memory count, so loading a model shows as well.
    """
    status = Path(f"/proc/{pid}/status")
    if not status.is_file():
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 / 1e9 if found else None
